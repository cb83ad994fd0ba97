"""A new file with the rows of an old one: what is not Anki's own stays behind.

Rows pass through this process one by one, so that no statement of ours ever runs in the old file's
schema, and text of any encoding comes out in ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
from apsw.ext import VTColumnAccess, make_virtual_module

from storage.collection.ddl import INDEXES, LATEST, Table, tables
from storage.collection.hostile import Deadline
from storage.collection.schema import configure
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
    """Rows as a virtual table, to be read once: what apsw else takes from a function and its attributes."""

    rows: Iterator[Any]
    columns: tuple[str, ...]
    column_access: VTColumnAccess = VTColumnAccess.By_Index

    def __call__(self) -> Iterator[Any]:
        return self.rows


@contextmanager
def create(path: Path, version: int, deadline: Deadline) -> Iterator[apsw.Connection]:
    """A new file with the tables of a schema version, one transaction on it, and at the end its indexes."""
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
        if version == LATEST:
            for sql in INDEXES.values():
                connection.execute(sql)
        connection.execute("COMMIT")
    except apsw.Error as exc:
        raise InvalidDatabase(f"rows that do not fit: {type(exc).__name__}: {exc}") from exc
    finally:
        connection.close(force=True)


def copy_table(source: apsw.Connection, target: apsw.Connection, table: Table) -> None:
    """Copy all rows of a table, with the values that its rules keep."""
    kept = ", ".join(table.rules[name].kept if name in table.rules else name for name in table.columns)
    columns = ", ".join(table.columns)
    select = f"SELECT {kept} FROM {table.name} NOT INDEXED"  # noqa: S608 - our words
    if table.ordered_by:
        feed: Any = _Feed(_in_order(source, select, table.ordered_by), table.columns)
        make_virtual_module(target, "feed", feed)
        target.execute(f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM feed")  # noqa: S608
        return
    found = f"WHERE typeof({table.found_by}) = 'integer'" if table.found_by else ""
    marks = ", ".join("?" * len(table.columns))
    target.executemany(
        f"INSERT INTO {table.name} ({columns}) VALUES ({marks})",  # noqa: S608
        source.execute(f"{select} {found}"),
    )


def _in_order(source: apsw.Connection, select: str, name: str) -> Iterator[Any]:
    """Rows in the order of their names, to be inserted by one statement.

    Each comparison of names is a call into Python. In one statement, a row that follows the one before it
    takes one or two; a statement for each row would search from the root every time, which takes some 17.
    Very long names come last and as they lie, as sorting them takes a few times their size of memory.
    """
    is_long = f"ifnull(octet_length({name}), 0) > {_LONG_NAME_BYTES}"
    yield from source.execute(f"{select} WHERE NOT {is_long} ORDER BY casefold({name})")
    yield from source.execute(f"{select} WHERE {is_long}")
