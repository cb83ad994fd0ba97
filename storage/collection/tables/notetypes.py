"""Reads and merges notetypes with fields and templates. Called by `collection`, `unseen` and `soundness`.

The newer one wins; names stay unique; the number of fields and templates cannot change by a merge.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import apsw

from storage.collection.engine.codec import Codec
from storage.collection.engine.notetype_json import NotetypeRows, Part, sort_field_index
from storage.collection.errors import InvalidChange
from storage.collection.records import Mark
from storage.collection.schema import pending_clause
from storage.collection.tables.names import free_name
from storage.collection.tally import Tally


class Shape(NamedTuple):
    """The properties of a notetype that merging a note needs."""

    field_count: int
    sort_field: int


def find_shape(connection: apsw.Connection, notetype_id: int) -> Shape | None:
    """The shape of a notetype, or None if it does not exist."""
    config = connection.execute("SELECT config FROM notetypes WHERE id = ?", (notetype_id,)).get
    if config is None:
        return None
    fields, _ = _part_counts(connection, notetype_id)
    return Shape(fields, sort_field_index(config))


def pending(connection: apsw.Connection, codec: Codec, min_usn: int) -> list[dict[str, Any]]:
    """The notetypes that the client has not seen."""
    ids: Any = connection.execute(
        f"SELECT id FROM notetypes WHERE {pending_clause(min_usn)} ORDER BY id",  # noqa: S608
        (min_usn,),
    ).fetchall()
    return codec.notetype_dicts([read(connection, notetype_id) for (notetype_id,) in ids])


def read(connection: apsw.Connection, notetype_id: int) -> NotetypeRows:
    """The rows of a notetype, which must exist."""
    core = connection.execute(
        "SELECT id, name, mtime_secs, usn, config FROM notetypes WHERE id = ?", (notetype_id,)
    ).get
    return NotetypeRows._make((*core, *_read_parts(connection, notetype_id)))


def merge(
    connection: apsw.Connection,
    codec: Codec,
    tally: Tally,
    notetypes: list[dict[str, Any]],
    mark: Mark,
) -> None:
    """Write each notetype, unless the stored one is newer.

    Raises: InvalidChange if the stored one has another number of fields or templates; such a change needs a
    one-way sync.
    """
    for rows in codec.notetype_rows(notetypes):
        ours = connection.execute("SELECT mtime_secs FROM notetypes WHERE id = ?", (rows.id,)).get
        if ours is not None:
            # The stored one is newer.
            if ours > rows.mtime_secs:
                continue
            if _part_counts(connection, rows.id) != (len(rows.fields), len(rows.templates)):
                raise InvalidChange(f"fields or templates of notetype {rows.id} were added or removed")
        _write(connection, _with_free_name(connection, rows, mark), tally)
        if ours is None:
            tally.add("notetypes", 1)


def _part_counts(connection: apsw.Connection, notetype_id: int) -> tuple[int, int]:
    counts: tuple[int, int] = connection.execute(
        "SELECT (SELECT count() FROM fields WHERE ntid = ?1), "
        "(SELECT count() FROM templates WHERE ntid = ?1)",
        (notetype_id,),
    ).get
    return counts


def _read_parts(connection: apsw.Connection, notetype_id: int) -> tuple[list[Part], list[Part]]:
    fields = connection.execute(
        "SELECT ord, name, config FROM fields WHERE ntid = ? ORDER BY ord", (notetype_id,)
    )
    templates = connection.execute(
        "SELECT ord, name, config FROM templates WHERE ntid = ? ORDER BY ord", (notetype_id,)
    )
    return [Part(*row) for row in fields], [Part(*row) for row in templates]


def _with_free_name(connection: apsw.Connection, rows: NotetypeRows, mark: Mark) -> NotetypeRows:
    """The rows under a free name; with `mark` as USN and time if it is a new one, so that clients get it."""
    name = free_name(connection, "notetypes", rows.id, rows.name)
    return rows if name == rows.name else rows._replace(name=name, **mark._asdict())


def _write(connection: apsw.Connection, rows: NotetypeRows, tally: Tally) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO notetypes (id, name, mtime_secs, usn, config) VALUES (?, ?, ?, ?, ?)",
        rows[:5],
    )
    # Replaced as a whole: names may have been exchanged between fields, which row by row would violate the
    # index.
    connection.execute("DELETE FROM fields WHERE ntid = ?", (rows.id,))
    connection.execute("DELETE FROM templates WHERE ntid = ?", (rows.id,))
    try:
        connection.executemany(
            "INSERT INTO fields (ntid, ord, name, config) VALUES (?, ?, ?, ?)",
            [(rows.id, *field) for field in rows.fields],
        )
        connection.executemany(
            "INSERT INTO templates (ntid, ord, name, mtime_secs, usn, config) VALUES (?, ?, ?, 0, 0, ?)",
            [(rows.id, *template) for template in rows.templates],
        )
    except apsw.ConstraintError as exc:
        raise InvalidChange(f"notetype {rows.id} has two fields or two templates of one name") from exc
    tally.saw_usn(rows.usn)
