"""The step `chunk`: revlog entries, cards and notes that are new to the client, some with each answer.

Called by `app.sync.session`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.sync.messages import ChunkMessage
from storage.collection.records import ChunkIds, ChunkPosition, RowPosition
from storage.collection.unseen import Unseen

BATCH_ROWS = 250
"""Rows of a full batch; the last batch is the one that is not full."""

CHUNK_BATCHES = 4
"""Batches per answer. The official server sends one, but clients accept any number of rows and ask until
`done`, so more save round trips: 500 reviews of a day are 1000 rows, one answer instead of five."""

CHUNK_CHARACTERS = 1 << 19
"""If the notes of an answer are longer than this, no more batches are added to it: notes can be very long."""

_FIELDS = 6
"""Column of a note row."""
_REVLOG_USN, _CARD_USN, _NOTE_USN = 2, 5, 4


def next_chunk(unseen: Unseen, sent: ChunkPosition) -> tuple[ChunkMessage, ChunkPosition]:
    """The rows after a position, and the position after those rows."""
    # A batch may have two rows more: see `_take`.
    waiting = unseen.chunk_ids(sent, CHUNK_BATCHES * (BATCH_ROWS + 2))
    for kind in (waiting.revlog, waiting.cards, waiting.notes):
        kind.reverse()  # so that the next one can be popped
    message, characters = ChunkMessage(done=False), 0
    # Build the answer batch by batch, so that the size of notes can be checked in between.
    for _ in range(CHUNK_BATCHES):
        ids, message.done = _take(waiting)
        rows = unseen.read_chunk(ids)
        message.revlog = [*message.revlog, *rows.revlog]
        message.cards = [*message.cards, *rows.cards]
        message.notes = [*message.notes, *rows.notes]
        characters += sum(len(note[_FIELDS]) for note in rows.notes)
        if message.done or characters > CHUNK_CHARACTERS:
            break
    return message, ChunkPosition(
        _last(message.revlog, _REVLOG_USN, sent.revlog),
        _last(message.cards, _CARD_USN, sent.cards),
        _last(message.notes, _NOTE_USN, sent.notes),
    )


def _last(rows: Sequence[Sequence[Any]], usn_at: int, before: RowPosition | None) -> RowPosition | None:
    return (rows[-1][usn_at], rows[-1][0]) if rows else before


def _take(waiting: ChunkIds) -> tuple[ChunkIds, bool]:
    """(ids of one batch, whether it is the last): one of each kind in turn until the batch is full.

    A round of the three kinds is always completed, so a batch may have two rows more.
    """
    taken = ChunkIds([], [], [])
    kinds = (
        (waiting.revlog, taken.revlog),
        (waiting.notes, taken.notes),
        (waiting.cards, taken.cards),
    )
    room = BATCH_ROWS
    while room > 0 and any(source for source, _ in kinds):
        for source, target in kinds:
            if source:
                target.append(source.pop())
                room -= 1
    return taken, room > 0
