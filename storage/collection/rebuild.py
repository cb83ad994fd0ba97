"""A new file with the rows of an old one: what is not Anki's own stays behind.

Rows pass through this process one by one, so that no statement of ours ever runs in the old file's
schema, and text of any encoding comes out in ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from storage.collection.ddl import INDEXES, LATEST, Table, tables
from storage.collection.schema import configure
from storage.errors import InvalidDatabase

_PRAGMAS = (
    "page_size = 4096",
    "cache_size = -8192",
    "locking_mode = EXCLUSIVE",
    "journal_mode = OFF",
    "synchronous = OFF",
)


@contextmanager
def create(path: Path, version: int) -> Iterator[apsw.Connection]:
    """A new file with the tables of a schema version, one transaction on it, and at the end its indexes."""
    connection = apsw.Connection(str(path))
    try:
        configure(connection)
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute("BEGIN")
        for table in tables(version):
            connection.execute(table.sql)
        yield connection
        if version == LATEST:
            for sql in INDEXES.values():
                connection.execute(sql)
        connection.execute("COMMIT")
    except apsw.Error as exc:
        raise InvalidDatabase(f"rows that do not fit: {type(exc).__name__}: {exc}") from exc
    finally:
        connection.close(force=True)


def copy_table(source: apsw.Connection, target: apsw.Connection, table: Table) -> None:
    """Copy all rows of a table; fractions in columns of integers are cut off."""
    reads = ", ".join(
        f"CASE typeof({name}) WHEN 'real' THEN CAST({name} AS integer) ELSE {name} END"
        if name in table.integers
        else name
        for name in table.columns
    )
    rows = source.execute(f"SELECT {reads} FROM {table.name} NOT INDEXED")  # noqa: S608 - our names
    marks = ", ".join("?" * len(table.columns))
    target.executemany(
        f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({marks})",  # noqa: S608
        rows,
    )
