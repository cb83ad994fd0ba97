"""Keeps row counts and the highest USN up to date during a merge, so that they need not be queried."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import apsw

COUNTED = ("cards", "notes", "revlog", "graves", "notetypes", "decks", "deck_config")
"""In the order in which the sanity check compares them."""

_CHECKED_FOR_UNSYNCED = {
    "cards": "INDEXED BY ix_cards_usn",
    "notes": "INDEXED BY ix_notes_usn",
    "revlog": "INDEXED BY ix_revlog_usn",
    "graves": "INDEXED BY idx_graves_pending",
    "decks": "",
    "deck_config": "",
    "tags": "",
    "notetypes": "INDEXED BY idx_notetypes_usn",
}


class Tally:
    """How many rows each counted table has, the highest USN, and whether a row may still have USN -1."""

    def __init__(self, stamps: Mapping[str, int | bool]) -> None:
        self.counts = {table: int(stamps[table]) for table in COUNTED}
        self.maybe_unsynced = bool(stamps["unsynced"])
        self.newest: int | None = stamps.get("newest")
        """No row has a higher USN. None if it is unknown."""

    def add(self, table: str, rows: int) -> None:
        """Note that rows were added to a table, or removed (negative)."""
        self.counts[table] += rows

    def saw_usn(self, usn: int) -> None:
        """Note the USN of a row that was written."""
        # The server gives no row this USN, but a client might send it.
        if usn == -1:
            self.maybe_unsynced = True
        if self.newest is not None and usn > self.newest:
            self.newest = usn

    def saw_usns(self, usns: Iterable[int]) -> None:
        """Note the USNs of rows that were written."""
        for usn in set(usns):
            self.saw_usn(usn)

    def recount(self, connection: apsw.Connection) -> None:
        """Count the rows in the tables."""
        for table in COUNTED:
            self.counts[table] = connection.execute(f"SELECT count() FROM {table}").get  # noqa: S608 - our names

    def has_unsynced(self, connection: apsw.Connection) -> bool:
        """Whether a row has USN -1; the tables are searched only if there may be one."""
        if self.maybe_unsynced:
            self.maybe_unsynced = find_unsynced(connection)
        return self.maybe_unsynced


def find_newest(connection: apsw.Connection) -> int | None:
    """The highest USN of any row; -1 if there are no rows, None if a USN is not an integer."""
    found = [
        connection.execute(f"SELECT max(usn) FROM {table} {index}").get  # noqa: S608
        for table, index in _CHECKED_FOR_UNSYNCED.items()
    ]
    # NULL: the table is empty.
    known = [usn for usn in found if usn is not None]
    return max(known, default=-1) if all(type(usn) is int for usn in known) else None


def find_unsynced(connection: apsw.Connection) -> bool:
    """Whether a row has USN -1, in the tables that the official server checks."""
    return any(
        connection.execute(f"SELECT 1 FROM {table} {index} WHERE usn = -1 LIMIT 1").get is not None  # noqa: S608
        for table, index in _CHECKED_FOR_UNSYNCED.items()
    )
