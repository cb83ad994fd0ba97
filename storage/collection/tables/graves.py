"""Reads and applies deletions, by id. Called by `collection` and `unseen`.

Only the objects with these ids are deleted: clients list the cards of a deleted note themselves.
"""

from __future__ import annotations

import apsw

from storage.collection.errors import InvalidChange
from storage.collection.records import Graves
from storage.collection.schema import pending_clause
from storage.collection.tally import Tally

_CARD, _NOTE, _DECK = range(3)


def pending(connection: apsw.Connection, min_usn: int) -> Graves:
    """All deletions that the client has not seen."""
    found = Graves([], [], [])
    by_kind = {_CARD: found.cards, _NOTE: found.notes, _DECK: found.decks}
    for oid, kind in connection.execute(
        f"SELECT oid, type FROM graves WHERE {pending_clause(min_usn)}",  # noqa: S608 - one of two clauses
        (min_usn,),
    ):
        if kind not in by_kind:
            raise InvalidChange(f"grave of unknown kind {kind}")
        by_kind[kind].append(oid)
    return found


def apply(connection: apsw.Connection, tally: Tally, graves: Graves, usn: int) -> None:
    """Delete these objects, and add graves for them."""
    for table, kind, ids in (
        ("notes", _NOTE, graves.notes),
        ("cards", _CARD, graves.cards),
        ("decks", _DECK, graves.decks),
    ):
        if not ids:
            continue
        keys = [(oid,) for oid in ids]
        # Rows that do not exist are not counted: the tally needs the number of deleted ones.
        before = connection.total_changes()
        connection.executemany(f"DELETE FROM {table} WHERE id = ?", keys)  # noqa: S608 - our names
        between = connection.total_changes()
        connection.executemany(
            f"INSERT OR IGNORE INTO graves (usn, oid, type) VALUES ({usn:d}, ?, {kind:d})",  # noqa: S608
            keys,
        )
        tally.add(table, before - between)
        tally.add("graves", connection.total_changes() - between)
        tally.saw_usn(usn)
