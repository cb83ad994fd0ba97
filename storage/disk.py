"""Classifies errors of the operating system, whose numbers differ between file systems.

Used by the local object store, the cache of bases and working copies.
"""

from __future__ import annotations

import errno

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NAMES = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)


def is_full(exc: OSError) -> bool:
    """Whether the disk, the quota or the file-size limit is full."""
    return exc.errno in _FULL


def is_disk_fault(exc: OSError) -> bool:
    """Whether the disk, or this process's access to it, is at fault.

    True for all errors except missing, existing or wrong kinds of files: a full, failing, read-only or
    removed disk, missing permissions, no free descriptors.
    """
    return exc.errno is not None and not isinstance(exc, _NAMES)
