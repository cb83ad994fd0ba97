"""Which rows the client has not seen. The order is that of the USN index, and senders pop from the end."""

from __future__ import annotations

import apsw

from storage.collection.records import ChunkIds
from storage.collection.schema import pending_clause

FEW_ROWS = 100

_PENDING_IN = {
    "revlog": "INDEXED BY ix_revlog_usn",
    "cards": "INDEXED BY ix_cards_usn",
    "notes": "INDEXED BY ix_notes_usn",
    "notetypes": "INDEXED BY idx_notetypes_usn",
    "decks": "",
    "deck_config": "",
    "tags": "",
}


def pending_ids(connection: apsw.Connection, min_usn: int) -> ChunkIds:
    """Ids of the review log, cards and notes that the client has not seen."""
    return ChunkIds(
        revlog=_ids(connection, "revlog", min_usn),
        cards=_ids(connection, "cards", min_usn),
        notes=_ids(connection, "notes", min_usn),
    )


def has_few_pending(connection: apsw.Connection, min_usn: int) -> bool:
    """Whether each table has at most `FEW_ROWS` that the client has not seen. Stops at one more."""
    clause = pending_clause(min_usn)
    return all(
        connection.execute(
            f"SELECT count() FROM (SELECT 1 FROM {table} {index} WHERE {clause} LIMIT {FEW_ROWS + 1})",  # noqa: S608
            (min_usn,),
        ).get
        <= FEW_ROWS
        for table, index in _PENDING_IN.items()
    )


def _ids(connection: apsw.Connection, table: str, min_usn: int) -> list[int]:
    """Named index: after ANALYZE of a table of one USN, SQLite would rather read all of it."""
    return [
        row_id
        for (row_id,) in connection.execute(
            f"SELECT id FROM {table} INDEXED BY ix_{table}_usn WHERE {pending_clause(min_usn)}",  # noqa: S608
            (min_usn,),
        )
    ]
