"""Reads and merges decks: the newer one wins, and names stay unique. Called by `collection` and `unseen`."""

from __future__ import annotations

from typing import Any

import apsw

from storage.collection.engine.codec import Codec, DeckRow
from storage.collection.errors import InvalidChange
from storage.collection.records import Mark
from storage.collection.schema import pending_clause
from storage.collection.tables.names import free_name
from storage.collection.tally import Tally

_COLUMNS = "id, name, mtime_secs, usn, common, kind"


def pending(connection: apsw.Connection, codec: Codec, min_usn: int) -> list[dict[str, Any]]:
    """The decks that the client has not seen."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM decks WHERE {pending_clause(min_usn)} ORDER BY id",  # noqa: S608
        (min_usn,),
    )
    return codec.deck_dicts([DeckRow(*row) for row in rows])


def merge(
    connection: apsw.Connection,
    codec: Codec,
    tally: Tally,
    decks: list[dict[str, Any]],
    mark: Mark,
) -> None:
    """Write each deck, unless the stored one is newer. Raises: InvalidChange."""
    for row in codec.deck_rows(decks):
        ours = connection.execute("SELECT mtime_secs FROM decks WHERE id = ?", (row.id,)).get
        # The stored one is newer.
        if ours is not None and ours > row.mtime_secs:
            continue
        _write(connection, _with_free_name(connection, row, mark), tally)
        if ours is None:
            tally.add("decks", 1)


def _write(connection: apsw.Connection, row: DeckRow, tally: Tally) -> None:
    if row.id == 0:
        raise InvalidChange("deck with id 0")
    connection.execute("INSERT OR REPLACE INTO decks VALUES (?, ?, ?, ?, ?, ?)", row)
    tally.saw_usn(row.usn)


def _with_free_name(connection: apsw.Connection, row: DeckRow, mark: Mark) -> DeckRow:
    """The row under a free name; if that is another one, USN and time are `mark`, so that clients get it."""
    name = free_name(connection, "decks", row.id, row.name)
    return row if name == row.name else row._replace(name=name, **mark._asdict())


def read_decks(connection: apsw.Connection) -> list[tuple[str, int]]:
    """The full name of each deck and the number of its cards, by name; those of its subdecks do not count."""
    rows = connection.execute(
        "SELECT name, coalesce(number, 0) FROM decks"
        " LEFT JOIN (SELECT iif(odid, odid, did) AS deck, count(*) AS number FROM cards GROUP BY deck)"
        " ON deck = decks.id ORDER BY name"
    )
    return [(str(name).replace("\x1f", "::"), int(cards)) for name, cards in rows]
