"""Copies the rows of an untrusted collection into a new file; only Anki's own tables. Used by `admit`.

Rows are read by one connection and written by another, so that no INSERT runs in the untrusted file's
schema, and text of any encoding becomes UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
from apsw.ext import VTColumnAccess, make_virtual_module

from storage.collection.schema import configure
from storage.collection.upload.ddl import INDEXES, LATEST, Table, tables
from storage.collection.upload.untrusted import Deadline
from storage.errors import InvalidDatabase

_PRAGMAS = (
    "page_size = 4096",
    "cache_size = -8192",
    "locking_mode = EXCLUSIVE",
    "journal_mode = OFF",
    "synchronous = OFF",
)

_LONG_NAME_BYTES = 4_096


@dataclass(frozen=True)
class _Feed:
    """Rows as a virtual table that can be read once, in the form that `make_virtual_module` expects."""

    rows: Iterator[Any]
    columns: tuple[str, ...]
    column_access: VTColumnAccess = VTColumnAccess.By_Index

    def __call__(self) -> Iterator[Any]:
        return self.rows


@contextmanager
def create(path: Path, version: int, deadline: Deadline) -> Iterator[apsw.Connection]:
    """Create a file with the tables of a schema version, and fill it within the block, in one transaction.

    Indexes are created at the end. Raises: InvalidDatabase.
    """
    connection = apsw.Connection(str(path))
    try:
        configure(connection)
        deadline.apply_to(connection)
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute("BEGIN")
        for table in tables(version):
            connection.execute(table.sql)
        yield connection
        # Created after the rows: faster, and no row is looked up before.
        if version == LATEST:
            for sql in INDEXES.values():
                connection.execute(sql)
        connection.execute("COMMIT")
    except apsw.Error as exc:
        raise InvalidDatabase(f"rows that do not fit: {type(exc).__name__}: {exc}") from exc
    finally:
        connection.close(force=True)


def copy_table(source: apsw.Connection, target: apsw.Connection, table: Table) -> None:
    """Copy all rows of a table; its rules replace invalid values."""
    kept = ", ".join(table.rules[name].kept if name in table.rules else name for name in table.columns)
    columns = ", ".join(table.columns)
    select = f"SELECT {kept} FROM {table.name} NOT INDEXED"  # noqa: S608 - our words
    if table.ordered_by:
        feed: Any = _Feed(_in_order(source, select, table.ordered_by), table.columns)
        # The rows as a virtual table of the new file's connection, so that one statement inserts them all.
        make_virtual_module(target, "feed", feed)
        target.execute(f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM feed")  # noqa: S608
        return
    # Rows that the engine could not find are left out.
    found = f"WHERE typeof({table.found_by}) = 'integer'" if table.found_by else ""
    marks = ", ".join("?" * len(table.columns))
    target.executemany(
        f"INSERT INTO {table.name} ({columns}) VALUES ({marks})",  # noqa: S608
        source.execute(f"{select} {found}"),
    )


def _in_order(source: apsw.Connection, select: str, name: str) -> Iterator[Any]:
    """Rows ordered by name, to be inserted by one statement.

    Each comparison of names is a call into Python. Within one statement, inserting a row right after the
    previous one takes one or two; a statement per row would search from the root each time, which takes
    some 17. Very long names come last, unordered, as sorting them takes a few times their size in memory.
    """
    # NULL counts as short: the NOT NULL constraint of the new table rejects it.
    is_long = f"ifnull(octet_length({name}), 0) > {_LONG_NAME_BYTES}"
    yield from source.execute(f"{select} WHERE NOT {is_long} ORDER BY casefold({name})")
    yield from source.execute(f"{select} WHERE {is_long}")
