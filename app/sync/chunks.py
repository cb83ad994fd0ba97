"""`chunk` and `applyChunk`: exchange revlog entries, cards and notes, some at a time."""

from __future__ import annotations

from app.sync.messages import ApplyChunkRequest, ChunkMessage, EmptyRequest
from app.sync.state import SyncState
from storage.collection.records import Chunk, ChunkIds

BATCH_ROWS = 250
"""A batch is full with so many rows; only one that is not full is the last."""

CHUNK_BATCHES = 4
"""The official server sends one batch at a time. Clients take any number of rows and ask until `done`,
so more of them save round trips: a day's 500 reviews are 1000 rows, one answer in place of five."""

CHUNK_CHARACTERS = 1 << 19
"""No further batch goes into a chunk whose notes are longer than this; a note may be a book."""

_FIELDS = 6
"""Column of a note row."""


def chunk(_request: EmptyRequest, state: SyncState) -> ChunkMessage:
    """The next rows that are new to the client. Asked again after the end, `done` and nothing more."""
    if state.unsent is None:
        state.unsent = state.collection.pending_ids(state.client_usn)
    message, characters = ChunkMessage(done=False), 0
    for _ in range(CHUNK_BATCHES):
        ids, message.done = _take(state.unsent)
        rows = state.collection.read_chunk(ids)
        message.revlog = [*message.revlog, *rows.revlog]
        message.cards = [*message.cards, *rows.cards]
        message.notes = [*message.notes, *rows.notes]
        characters += sum(len(note[_FIELDS]) for note in rows.notes)
        if message.done or characters > CHUNK_CHARACTERS:
            break
    return message


def _take(unsent: ChunkIds) -> tuple[ChunkIds, bool]:
    """One of each kind in turn, from the end of the lists, until the batch is full.

    A round is never broken off, so a batch may hold two rows more.
    """
    taken = ChunkIds([], [], [])
    kinds = (
        (unsent.revlog, taken.revlog),
        (unsent.notes, taken.notes),
        (unsent.cards, taken.cards),
    )
    room = BATCH_ROWS
    while room > 0 and any(source for source, _ in kinds):
        for source, target in kinds:
            if source:
                target.append(source.pop())
                room -= 1
    return taken, room > 0


def apply_chunk(request: ApplyChunkRequest, state: SyncState) -> None:
    """Merge the client's rows; they may be of any number."""
    rows = request.chunk
    state.collection.apply_chunk(Chunk(rows.revlog, rows.cards, rows.notes), state.client_usn)
