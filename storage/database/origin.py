"""How a version came to be, told by the name of its commit: by what, and by which device.

A commit id has 16 characters: a letter for the kind, 7 that are unlike any other's, and the id of the
device's host key. The letter is a capital, which older ids do not have: they are hexadecimal.
"""

from __future__ import annotations

import base64
import hashlib
import string
from enum import StrEnum
from typing import Final, NamedTuple

_LENGTH: Final = 16
_UNLIKE: Final = 7
_NO_DEVICE: Final = "." * 8
_DEVICE_BYTES: Final = 6
"""Of a key's hash; in lists they are 12 hexadecimal digits."""
_LETTERS: Final = set(string.ascii_letters + string.digits + "-_")


class Kind(StrEnum):
    """What makes versions; the letter in the commit id."""

    SYNC = "S"
    UPLOAD = "U"
    DOWNLOAD = "D"
    MEDIA = "M"
    RESTORE = "R"
    PAGE = "P"
    """A package that was uploaded on the user's page."""
    OPERATOR = "O"
    """What an operator's command brought in."""


class Origin(NamedTuple):
    """What a commit id tells."""

    kind: Kind
    device: str
    """Id of the host key, as `ankisyncctl key list` has it; empty if no device made the version."""


MEDIA_CHANGE: Final = Origin(Kind.MEDIA, "")


def name_commit(kind: Kind, unique: str, device: str = "") -> str:
    """A commit id; the same for the same arguments. `unique` is of any length and unlike all others."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(unique.encode()).digest()).decode()
    by = base64.urlsafe_b64encode(bytes.fromhex(device)).decode() if device else _NO_DEVICE
    return f"{kind}{digest[:_UNLIKE]}{by}"


def read_origin(commit_id: str) -> Origin | None:
    """What a commit id tells; None for one that was made before this was told."""
    kind, by = commit_id[:1], commit_id[1 + _UNLIKE :]
    if len(commit_id) != _LENGTH or kind not in set(Kind):
        return None
    if by == _NO_DEVICE:
        return Origin(Kind(kind), "")
    if not _LETTERS.issuperset(by):
        return None
    return Origin(Kind(kind), base64.urlsafe_b64decode(by).hex())


def device_of(key_hash: bytes) -> str:
    """The id of the host key with this hash; empty for no hash."""
    return key_hash[:_DEVICE_BYTES].hex()
