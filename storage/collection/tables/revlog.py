"""Reads and merges the review log: rows of 9 columns, (id, cid, usn, ease, ivl, lastIvl, factor, time, type).

Called by `collection` and `unseen`. Entries are added and never changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apsw

from storage.collection.records import Row
from storage.collection.schema import id_list
from storage.collection.tally import Tally

_USN = 2

_READ = """
    SELECT r.id, cid, usn, ease, CAST(ivl AS integer), CAST(lastIvl AS integer), factor,
        CASE WHEN typeof(time) = 'integer' AND time BETWEEN 0 AND 4294967295 THEN time ELSE 0 END,
        CASE WHEN typeof(r.type) = 'integer' AND r.type & 255 <= 5 THEN r.type & 255 ELSE 0 END
    FROM json_each(?) AS wanted CROSS JOIN revlog AS r ON r.id = wanted.value
"""


def read(connection: apsw.Connection, ids: Sequence[int]) -> list[Row]:
    """The entries with these ids, in this order; missing ones are left out."""
    return list(connection.execute(_READ, (id_list(ids),)))


def merge(connection: apsw.Connection, tally: Tally, entries: Iterable[Row]) -> None:
    """Add each entry, unless one with its id exists."""
    entries = list(entries)
    if not entries:
        return
    # Ignored rows are not counted.
    before = connection.total_changes()
    connection.executemany("INSERT OR IGNORE INTO revlog VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", entries)
    tally.add("revlog", connection.total_changes() - before)
    tally.saw_usns(entry[_USN] for entry in entries)
