"""dynalite, a second engine for DynamoDB's protocol, from npm: as `tests/support/npm` pins it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from tests.support.servers import free_port
from tests.support.waiting import wait_for_port

PINNED = Path(__file__).with_name("npm")
FOLDER = Path(__file__).parents[2] / ".cache" / "npm"
INSTALL = ("npm", "ci", "--ignore-scripts", "--engine-strict", "--no-audit", "--no-fund")
INSTALL_SECONDS = 120


@contextmanager
def dynalite() -> Iterator[str]:
    """The address of an empty one; skips the test, and says why, where it cannot be installed."""
    program = _installed() / "node_modules" / "dynalite" / "cli.js"
    port = free_port()
    command = ["node", program, "--host", "127.0.0.1", "--port", str(port), "--createTableMs", "0"]
    with subprocess.Popen(command) as process:
        try:
            wait_for_port(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _installed() -> Path:
    absent = [program for program in ("npm", "node") if shutil.which(program) is None]
    if absent:
        pytest.skip(f"dynalite needs npm and node, and {' and '.join(absent)} is not installed")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER.with_suffix(".lock")):
        if not _is_made():
            _install()
    return FOLDER


def _is_made() -> bool:
    """npm writes the hidden lock when all packages are there."""
    lock, hidden = FOLDER / "package-lock.json", FOLDER / "node_modules" / ".package-lock.json"
    return hidden.exists() and lock.read_bytes() == (PINNED / "package-lock.json").read_bytes()


def _install() -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PINNED / name, FOLDER / name)
    shutil.rmtree(FOLDER / "node_modules", ignore_errors=True)
    try:
        subprocess.run(INSTALL, cwd=FOLDER, check=True, capture_output=True, timeout=INSTALL_SECONDS)
    except subprocess.CalledProcessError as exc:
        # What npm says names the registry of this machine.
        code = re.search(rb"\bcode (\w+)", exc.stderr)
        reason = code[1].decode() if code else f"exit status {exc.returncode}"
        pytest.skip(f"npm could not install dynalite: {reason}")
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm could not install dynalite within {INSTALL_SECONDS} s")
