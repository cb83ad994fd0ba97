"""Checks the keys of objects, for all backends: every backend can store a valid key, in its own folder."""

from __future__ import annotations

import re
from typing import Final

_KEY: Final = re.compile(
    r"(?=.{1,512}\Z)(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]{1,255}(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]{1,255})*"
).fullmatch


def check_key(key: str) -> None:
    """Raises: ValueError if this is not a valid key."""
    if _KEY(key) is None:
        raise ValueError(f"no object key: {key!r}")


def check_prefix(prefix: str) -> None:
    """Raises: ValueError if no key can begin with this."""
    folder, slash, _ = prefix.rpartition("/")
    if slash:
        check_key(folder)


def check_range(start: int, length: int | None) -> None:
    """Raises: ValueError for a negative start or length."""
    if start < 0 or (length is not None and length < 0):
        raise ValueError(f"no range: {start}, {length}")
