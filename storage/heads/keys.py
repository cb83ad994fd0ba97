"""Checks user ids, which are part of keys and file names in some backends; used by all head stores."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from storage.types import DatabaseId, DatabaseKind, Head, UserId

_USER: Final = re.compile(r"[A-Za-z0-9._-]{1,128}").fullmatch


def check_user(user: UserId) -> None:
    """Raises: ValueError if a user id is not 1 to 128 characters of [A-Za-z0-9._-]."""
    if _USER(user) is None or user in {".", ".."}:
        raise ValueError(f"no user id: {user!r}")


def databases_of(user: UserId, find: Callable[[DatabaseId], Head | None]) -> Iterator[DatabaseId]:
    """The databases of one user that have a record; ordered, lazy."""
    own = (DatabaseId(user, DatabaseKind.COLLECTION), DatabaseId(user, DatabaseKind.MEDIA))
    return (database for database in own if find(database) is not None)
