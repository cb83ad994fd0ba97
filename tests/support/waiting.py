"""Waiting for what happens by itself: patiently, as machines that run tests are busy."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from socket import create_connection
from typing import TypeVar

PATIENCE_S = 120.0

T = TypeVar("T")


def wait_until(ask: Callable[[], T], tell: Callable[[], str] = str) -> T:
    """Ask again and again until the answer is true, and return it. `tell`: what is said where it never is."""
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := ask()):
        assert time.monotonic() < deadline, tell()
        time.sleep(0.01)
    return answer


def wait_for_port(port: int, process: subprocess.Popen, tell: Callable[[], str] = str) -> None:
    """Wait until a process that was started listens on a port."""

    def is_open() -> bool:
        assert process.poll() is None, tell()
        with suppress(OSError), create_connection(("127.0.0.1", port), timeout=5):
            return True
        return False

    wait_until(is_open, tell)
