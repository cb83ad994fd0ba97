"""Reads and merges notes: rows of 11 columns, (id, guid, mid, mod, usn, tags, flds, sfld, csum, flags, data).

Called by `collection` and `unseen`. Sort field and checksum are empty in messages; they are computed from
the fields.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from storage.collection.engine.codec import Codec
from storage.collection.errors import InvalidChange
from storage.collection.records import Row
from storage.collection.schema import id_list
from storage.collection.tables import tags
from storage.collection.tables.conflict import newest
from storage.collection.tables.notetypes import Shape, find_shape
from storage.collection.tally import Tally

FIELD_SEPARATOR = "\x1f"

_MID, _MOD, _USN, _TAGS, _FLDS = 2, 3, 4, 5, 6

_NOT_IN_FIELDS = re.compile("[\\x00-\\x08\\x0b-\\x1e\\x7f]")

_READ = """
    SELECT n.id, guid, mid, mod, usn, tags, flds
    FROM json_each(?) AS wanted CROSS JOIN notes AS n ON n.id = wanted.value
"""

_OURS = """
    SELECT n.id, usn, mod, mid, csum
    FROM json_each(?) AS wanted CROSS JOIN notes AS n ON n.id = wanted.value
"""

_INSERT = "INSERT INTO notes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, '')"

_UPDATE = """
    UPDATE notes SET guid = ?2, mid = ?3, mod = ?4, usn = ?5, tags = ?6, flds = ?7, sfld = ?8, csum = ?9,
        flags = 0, data = ''
    WHERE id = ?1
"""

_UPDATE_IN_PLACE = """
    UPDATE notes SET guid = ?2, mod = ?4, usn = ?5, tags = ?6, flds = ?7, sfld = ?8, flags = 0, data = ''
    WHERE id = ?1 AND mid = ?3 AND csum = ?9
"""
"""Leaves out the indexed columns that stay the same, see `storage.collection.tables.cards`."""


def read(connection: apsw.Connection, ids: Sequence[int]) -> list[Row]:
    """The notes with these ids, in this order; missing ones are left out."""
    return [
        (*row[:_TAGS], tags.normalised_column(row[_TAGS]), row[_FLDS], "", "", 0, "")
        for row in connection.execute(_READ, (id_list(ids),))
    ]


def merge(
    connection: apsw.Connection, codec: Codec, tally: Tally, notes: Iterable[Row], min_usn: int
) -> None:
    """Write each note, unless the stored one is unseen by the client and at least as new (`newer.newest`).

    Raises: InvalidChange if a note's notetype is missing or has another number of fields.
    """
    notes = list(notes)
    ours: dict[Any, Any] = {
        row[0]: row for row in connection.execute(_OURS, (id_list(note[0] for note in notes),))
    }
    writes = newest(notes, ours, min_usn, _MOD, _USN)
    inserts, updates, updates_in_place = [], [], []
    for row in _prepared(connection, codec, writes):
        known = ours.get(row[0])
        if known is None:
            inserts.append(row)
        # Notetype and checksum, the indexed columns, are the same.
        elif known[3] == row[2] and known[4] == row[8]:
            updates_in_place.append(row)
        else:
            updates.append(row)
    tally.saw_usns(row[_USN] for row in writes)
    for sql, rows in ((_INSERT, inserts), (_UPDATE, updates), (_UPDATE_IN_PLACE, updates_in_place)):
        if rows:
            connection.executemany(sql, rows)
    tally.add("notes", len(inserts))


def _prepared(connection: apsw.Connection, codec: Codec, notes: list[Row]) -> list[tuple[Any, ...]]:
    """The first nine columns of each note, with sort field and checksum."""
    shapes: dict[int, Shape] = {}
    cleaned, firsts, sort_fields = [], [], []
    for note in notes:
        shape = shapes.get(note[_MID])
        if shape is None:
            shape = shapes[note[_MID]] = _shape(connection, note[_MID])
        joined = _NOT_IN_FIELDS.sub("", note[_FLDS])
        fields = joined.split(FIELD_SEPARATOR)
        # A note of a notetype without fields has one empty field.
        if len(fields) != max(shape.field_count, 1):
            raise InvalidChange(f"note has {len(fields)} fields, its notetype {shape.field_count}")
        cleaned.append(joined)
        firsts.append(fields[0])
        sort_fields.append(fields[shape.sort_field] if shape.sort_field < len(fields) else "")
    # One call of the engine for all notes, and each text once.
    stripped = dict(zip(texts := {*firsts, *sort_fields}, codec.strip_html(texts), strict=True))
    return [
        (
            *note[:_TAGS],
            tags.normalised_column(note[_TAGS]),
            fields,
            stripped[sort_field],
            checksum(stripped[first]),
        )
        for note, fields, first, sort_field in zip(notes, cleaned, firsts, sort_fields, strict=True)
    ]


def checksum(text: str) -> int:
    """The `csum` column: a number for finding notes by their first field (`text` is without HTML)."""
    return int.from_bytes(hashlib.sha1(text.encode(), usedforsecurity=False).digest()[:4])


def _shape(connection: apsw.Connection, notetype_id: int) -> Shape:
    shape = find_shape(connection, notetype_id)
    if shape is None:
        raise InvalidChange(f"note of missing notetype {notetype_id}")
    return shape
