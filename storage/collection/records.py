"""What passes between the merge and its callers: deletions, changes and chunks.

Rows are tuples in the column order of Anki's tables, objects are the wire's "schema 11" dicts.
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
