"""What tests take from npm, as `tests/support/npm` pins it: axe, and dynalite, another engine of DynamoDB."""

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
    program = installed("dynalite") / "node_modules" / "dynalite" / "cli.js"
    port = free_port()
    command = ["node", program, "--host", "127.0.0.1", "--port", str(port), "--createTableMs", "0"]
    with subprocess.Popen(command) as process:
        try:
            wait_for_port(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def axe_source() -> str:
    """The script of axe-core, which finds what keeps people out of a page; skips the test as above."""
    return (installed("axe-core") / "node_modules" / "axe-core" / "axe.min.js").read_text()


def installed(what: str) -> Path:
    """The folder with all packages; skips the test, and says why, where they cannot be installed."""
    absent = [program for program in ("npm", "node") if shutil.which(program) is None]
    if absent:
        pytest.skip(f"{what} needs npm and node, and {' and '.join(absent)} is not installed")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER.with_suffix(".lock")):
        if not _is_made():
            _install(what)
    return FOLDER


def _is_made() -> bool:
    """npm writes the hidden lock when all packages are there."""
    lock, hidden = FOLDER / "package-lock.json", FOLDER / "node_modules" / ".package-lock.json"
    return hidden.exists() and lock.read_bytes() == (PINNED / "package-lock.json").read_bytes()


def _install(what: str) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PINNED / name, FOLDER / name)
    shutil.rmtree(FOLDER / "node_modules", ignore_errors=True)
    try:
        subprocess.run(INSTALL, cwd=FOLDER, check=True, capture_output=True, timeout=INSTALL_SECONDS)
    except subprocess.CalledProcessError as exc:
        # What npm says names the registry of this machine.
        code = re.search(rb"\bcode (\w+)", exc.stderr)
        reason = code[1].decode() if code else f"exit status {exc.returncode}"
        pytest.skip(f"npm could not install {what}: {reason}")
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm could not install {what} within {INSTALL_SECONDS} s")
