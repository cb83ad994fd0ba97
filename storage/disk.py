"""What an operating-system error says about the disk, by meaning: the numbers differ between file systems."""

from __future__ import annotations

import errno

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NAMES = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)


def is_full(exc: OSError) -> bool:
    """Whether there is no room left: trying it in another way would not help."""
    return exc.errno in _FULL


def is_disk_fault(exc: OSError) -> bool:
    """Whether the disk, or this process's access to it, is at fault, and not a name.

    Everything that is not about a name counts: a full or failing disk, one that is mounted read-only or has
    gone away, missing rights, no more descriptors.
    """
    return exc.errno is not None and not isinstance(exc, _NAMES)
