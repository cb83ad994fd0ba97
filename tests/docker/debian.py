"""Programs of Debian packages, unpacked beside the tests instead of installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CACHE = Path(__file__).parents[2] / ".cache" / "debian"


def program(name: str, path: str, *packages: str) -> str:
    """The program: the machine's own, or one from Debian's packages; skips where neither can be had."""
    if found := shutil.which(name):
        return found
    unpacked = CACHE / name / path
    if unpacked.exists():
        return str(unpacked)
    if shutil.which("apt-get") is None:
        pytest.skip(f"{name} is not on this machine, and there is no apt to fetch it with")
    folder = CACHE / name
    folder.mkdir(parents=True, exist_ok=True)
    fetched = _fetch(folder, packages)
    if fetched.returncode:  # the lists may be old, or not there at all
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True, timeout=120, check=False)
        fetched = _fetch(folder, packages)
    if fetched.returncode:
        pytest.skip(f"{name} is not on this machine, and apt has no package of it: {fetched.stderr[-200:]}")
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True, timeout=60)
    return str(unpacked)


def _fetch(folder: Path, packages: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    command = ["apt-get", "download", "-qq", *packages]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
