"""Programs of Debian packages, unpacked beside the tests instead of installed."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

CACHE = Path(__file__).parents[2] / ".cache" / "debian"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
FETCH_S = 180


def program(name: str, path: str, *packages: str) -> str:
    """The program: the machine's own, or one from Debian's packages; skips where neither can be had."""
    return shutil.which(name) or unpacked(name, path, *packages)


@functools.cache
def unpacked(name: str, path: str, *packages: str, suite: str | None = None) -> str:
    """The program from the packages of `suite`, or of the machine's own release.

    Of the processes that run tests, one fetches it, and the others wait.
    """
    folder = CACHE / (f"{name}-{suite}" if suite else name)
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / "lock"):
        return _unpacked(folder, path, packages, suite)


def _unpacked(folder: Path, path: str, packages: tuple[str, ...], suite: str | None) -> str:
    name = folder.name
    found = folder / path
    if found.exists():
        return str(found)
    if shutil.which("apt-get") is None:
        pytest.skip(f"{name} is not on this machine, and there is no apt to fetch it with")
    folder.mkdir(parents=True, exist_ok=True)
    options = _lists_of(suite) if suite else []
    fetched = _apt_get(folder, *options, "download", "-qq", *packages)
    if fetched.returncode:  # the lists may be old, or not there at all
        _apt_get(folder, *options, "update", "-qq")
        fetched = _apt_get(folder, *options, "download", "-qq", *packages)
    if fetched.returncode:
        pytest.skip(f"{name} is not on this machine, and apt has no package of it: {fetched.stderr[-200:]}")
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True, timeout=60)
    return str(found)


def _lists_of(suite: str) -> list[str]:
    """Options that make apt-get use a release of Debian other than the machine's, from the same mirror."""
    state = CACHE / f"apt-{suite}"
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    sources = state / "sources.list"
    sources.write_text(f"deb [signed-by={KEYS}] {_mirror()} {suite} main\n")
    settings = {
        "Dir::Etc::sourcelist": sources, "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": state / "lists", "Dir::Cache": state / "cache",
    }  # fmt: skip
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _mirror() -> str:
    targets = [
        "apt-get",
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
        "Component: main",
    ]
    listed = subprocess.run(targets, capture_output=True, text=True, timeout=60, check=False).stdout.split()
    main = [uri for uri in listed if not uri.rstrip("/").endswith("-security")]
    if not main:
        pytest.skip("apt has no mirror of Debian to fetch from")
    return main[0]


def _apt_get(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["apt-get", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_S, check=False)
