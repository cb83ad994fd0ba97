"""Reads and merges cards: rows of 18 columns, (id, nid, did, ord, mod, usn, type, queue, ..., flags, data).

Called by `collection` and `unseen`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from storage.collection.records import Row
from storage.collection.schema import id_list
from storage.collection.tables import card_data
from storage.collection.tables.conflict import newest
from storage.collection.tally import Tally

_MOD, _USN, _ODID, _DATA = 4, 5, 15, 17

_INT32 = "WHEN typeof({0}) = 'integer' AND {0} BETWEEN -2147483648 AND 2147483647 THEN {0} ELSE 0 END"

_READ = f"""
    SELECT c.id, nid, did, ord, CAST(mod AS integer), usn, c.type, queue,
        CASE {_INT32.format("due")}, CAST(ivl AS integer), factor, reps, lapses, left,
        CASE {_INT32.format("odue")}, odid, flags,
        CASE typeof(data) WHEN 'text' THEN data ELSE '' END
    FROM json_each(?) AS wanted CROSS JOIN cards AS c ON c.id = wanted.value
"""  # noqa: S608 - our words

_OURS = """
    SELECT c.id, usn, CAST(mod AS integer), nid, odid
    FROM json_each(?) AS wanted CROSS JOIN cards AS c ON c.id = wanted.value
"""

_INSERT = "INSERT INTO cards VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

_UPDATE = """
    UPDATE cards SET nid = ?2, did = ?3, ord = ?4, mod = ?5, usn = ?6, type = ?7, queue = ?8, due = ?9,
        ivl = ?10, factor = ?11, reps = ?12, lapses = ?13, left = ?14, odue = ?15, odid = ?16,
        flags = ?17, data = ?18
    WHERE id = ?1
"""

_UPDATE_IN_PLACE = """
    UPDATE cards SET did = ?3, ord = ?4, mod = ?5, usn = ?6, type = ?7, queue = ?8, due = ?9,
        ivl = ?10, factor = ?11, reps = ?12, lapses = ?13, left = ?14, odue = ?15,
        flags = ?17, data = ?18
    WHERE id = ?1 AND ?2 = nid AND ?16 = odid
"""
"""SQLite rewrites the index of a column in SET even if the value is the same, so `nid` and `odid` are left
out: a review changes neither."""


def read(connection: apsw.Connection, ids: Sequence[int]) -> list[Row]:
    """The cards with these ids, in this order; missing ones are left out."""
    return [
        (*row[:_DATA], card_data.canonical(row[_DATA])) for row in connection.execute(_READ, (id_list(ids),))
    ]


def replace(connection: apsw.Connection, cards: Sequence[Row]) -> None:
    """Write existing cards; their note and original deck must not change."""
    if cards:
        connection.executemany(_UPDATE_IN_PLACE, cards)


def merge(connection: apsw.Connection, tally: Tally, cards: Iterable[Row], min_usn: int) -> None:
    """Write each card, unless the stored one is unseen by the client and at least as new (`newer.newest`)."""
    cards = list(cards)
    ours: dict[Any, Any] = {
        row[0]: row for row in connection.execute(_OURS, (id_list(card[0] for card in cards),))
    }
    inserts, updates, updates_in_place = [], [], []
    for card in newest(cards, ours, min_usn, _MOD, _USN):
        # Most data is canonical, and then the row need not be copied.
        data = card_data.canonical(card[_DATA])
        row = card if data is card[_DATA] else (*card[:_DATA], data)
        known = ours.get(card[0])
        if known is None:
            inserts.append(row)
        # Note and original deck, the indexed columns, are the same.
        elif known[3] == card[1] and known[4] == card[_ODID]:
            updates_in_place.append(row)
        else:
            updates.append(row)
    tally.saw_usns(card[_USN] for card in (*inserts, *updates, *updates_in_place))
    for sql, rows in ((_INSERT, inserts), (_UPDATE, updates), (_UPDATE_IN_PLACE, updates_in_place)):
        if rows:
            connection.executemany(sql, rows)
    tally.add("cards", len(inserts))
