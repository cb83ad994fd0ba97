"""Which keys an object may have, so that every backend can keep it and none is led astray."""

from __future__ import annotations

import re
from typing import Final

_KEY: Final = re.compile(
    r"(?=.{1,512}\Z)(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]{1,255}(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]{1,255})*"
).fullmatch


def check_key(key: str) -> None:
    """Refuse what is no key. Raises: ValueError."""
    if _KEY(key) is None:
        raise ValueError(f"no object key: {key!r}")


def check_prefix(prefix: str) -> None:
    """Refuse what no key begins with. Raises: ValueError."""
    folder, slash, _ = prefix.rpartition("/")
    if slash:
        check_key(folder)


def check_range(start: int, length: int | None) -> None:
    """Refuse a range that counts from the end. Raises: ValueError."""
    if start < 0 or (length is not None and length < 0):
        raise ValueError(f"no range: {start}, {length}")
