"""Types of the data of a sync: deletions, changes and chunks. Used by this package and `app.sync`.

Rows are tuples in the column order of Anki's tables; objects are the "schema 11" dicts of messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

Row = Sequence[Any]


class Mark(NamedTuple):
    """USN and modification time of rows that the merge itself changes."""

    usn: int
    mtime_secs: int


class Graves(msgspec.Struct, frozen=True):
    """Ids of deleted objects."""

    cards: list[int] = []
    notes: list[int] = []
    decks: list[int] = []


class Changes(msgspec.Struct, frozen=True):
    """All that is not sent in chunks: notetypes, decks, deck options, tags, and possibly the config."""

    models: list[dict[str, Any]] = []
    decks: list[dict[str, Any]] = []
    configs: list[dict[str, Any]] = []
    tags: list[str] = []
    conf: dict[str, Any] | None = None
    crt: int | None = None


class ChunkIds(msgspec.Struct, frozen=True):
    """Ids of rows to send, those with the highest USN first."""

    revlog: list[int] = []
    cards: list[int] = []
    notes: list[int] = []


RowPosition = tuple[int, int]
"""USN and id of a row."""


class ChunkPosition(msgspec.Struct, frozen=True, array_like=True):
    """The last row of each kind that was sent; None before the first."""

    revlog: RowPosition | None = None
    cards: RowPosition | None = None
    notes: RowPosition | None = None


class Chunk(msgspec.Struct, frozen=True):
    """Rows of 9 (revlog), 18 (cards) and 11 (notes) columns."""

    revlog: Sequence[Row] = ()
    cards: Sequence[Row] = ()
    notes: Sequence[Row] = ()
