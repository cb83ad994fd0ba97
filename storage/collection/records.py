"""What passes between the merge and its callers: deletions, changes and chunks.

Refuses meaning: rows are tuples in the column order of Anki's tables, objects are the wire's
"schema 11" dicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

Row = Sequence[Any]


class Mark(NamedTuple):
    """What a row gets when the merge itself changes it."""

    usn: int
    mtime_secs: int


class Graves(msgspec.Struct, frozen=True):
    """Ids of what was deleted."""

    cards: list[int] = []
    notes: list[int] = []
    decks: list[int] = []


class Changes(msgspec.Struct, frozen=True):
    """What is exchanged whole: notetypes, decks, deck options, tags, and perhaps the config."""

    models: list[dict[str, Any]] = []
    decks: list[dict[str, Any]] = []
    configs: list[dict[str, Any]] = []
    tags: list[str] = []
    conf: dict[str, Any] | None = None
    crt: int | None = None


class ChunkIds(msgspec.Struct, frozen=True):
    """Ids of rows to send, in the order of the tables' USN index; senders take from the end."""

    revlog: list[int] = []
    cards: list[int] = []
    notes: list[int] = []


class Chunk(msgspec.Struct, frozen=True):
    """Rows of 9 (revlog), 18 (cards) and 11 (notes) columns."""

    revlog: Sequence[Row] = ()
    cards: Sequence[Row] = ()
    notes: Sequence[Row] = ()
