"""Syncs files to the disk (fsync); many files of one folder by a single `syncfs` call if that is reliable.

Used by the local object store and its write-ahead log.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

MANY: Final = 64
"""From this number of files on the whole file system is synced: 3,200 of 20 KB take 0.15 s, not 10 s."""

_TRUSTED: Final = frozenset({"ext4", "xfs"})
"""File systems on which `syncfs` does all that fsync does. On others, such as FUSE, it may do less."""

_LEAST_KERNEL: Final = (5, 8)
"""Earlier kernels do not report failed writes from `syncfs`. Source: man 2 syncfs."""


_FORBIDDEN: Final = frozenset({errno.ENOSYS, errno.EPERM})
"""Errors of a sandbox that does not allow the call."""

SyncFs = Callable[[int], int]
"""Syncs the file system of a descriptor. 0 on success, else the error is in `ctypes.get_errno`."""


class FolderSync:
    """Syncs files below one folder.

    The folder is kept open from the start: `syncfs` reports write errors since the descriptor was opened.
    """

    def __init__(self, folder: Path, syncfs: SyncFs | None = None) -> None:
        """The folder must exist. `syncfs` is for tests; by default it is chosen by kernel and file system."""
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._syncfs = syncfs or _find_syncfs(folder)

    def close(self) -> None:
        """Close the folder."""
        os.close(self._folder)

    def sync_all(self, paths: Sequence[Path]) -> None:
        """Sync files and their folders; files that have been deleted are skipped. Raises: OSError."""
        if self._syncfs is not None and len(paths) >= MANY:
            if self._syncfs(self._folder) == 0:
                return
            if (number := ctypes.get_errno()) not in _FORBIDDEN:
                raise OSError(number, os.strerror(number))
            self._syncfs = None
        for path in (*paths, *dict.fromkeys(path.parent for path in paths)):
            with suppress(FileNotFoundError, NotADirectoryError):
                sync_path(path)


def sync_path(path: Path) -> None:
    """Sync one file or folder. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _find_syncfs(folder: Path) -> SyncFs | None:
    """`syncfs` of the C library; None if it is missing, or does less than an fsync of each file."""
    if sys.platform != "linux" or _kernel() < _LEAST_KERNEL or _file_system_of(folder) not in _TRUSTED:
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)


def _kernel() -> tuple[int, ...]:
    numbers = os.uname().release.split("-")[0].split(".")[:2]
    return tuple(int(number) if number.isdecimal() else 0 for number in numbers)


def _file_system_of(folder: Path) -> str:
    """The type of the file system, such as `ext4`; empty if it cannot be found."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
            mount, _, rest = line.partition(" - ")
            if mount.split()[2] == wanted:
                return rest.split()[0]
    return ""
