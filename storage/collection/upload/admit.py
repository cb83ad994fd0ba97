"""Checks an uploaded collection, and converts it if needed, so that later steps can rely on it.

Called by `app.sync.transfer` for full uploads and imports. A file that is as clients usually send it
(schema 18, just vacuumed, no foreign objects, valid values) is checked and used as it is. Any other is
checked more loosely, and its rows are copied into a new file:

    header, schema ---- as expected ----> pages and values ---- valid ----> the file itself
        |                                        |
        | other schema, page size, objects       | values that must be cleaned (`NeedsRebuild`)
        v                                        v
    tables ----> copy the rows, upgrade the small tables ----> values ----> a new file
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from storage.collection.engine.codec import Codec
from storage.collection.stamps import Stamps, read_stamps
from storage.collection.upload.checks import (
    Check,
    NeedsRebuild,
    check_small_tables,
    page_checks,
    table_checks,
    value_checks,
)
from storage.collection.upload.ddl import BIG_TABLES, LATEST, OPENABLE, is_latest, tables
from storage.collection.upload.header import mark_as_wal, read_header
from storage.collection.upload.rebuild import copy_table, create
from storage.collection.upload.untrusted import Deadline, open_hostile
from storage.collection.upload.upgrade import reset_eases, upgraded_small_tables
from storage.errors import InvalidDatabase
from storage.threads import run_in_two_threads

_SHORTEST_LIMIT_BYTES = 1 << 20

_LONGEST_REBUILT_BYTES = 64 << 20
"""The largest value in a file that is rebuilt: each value takes a few times its size in memory."""

_MOST_STATISTICS = 2_000
_MOST_STATISTICS_BYTES = 256 << 10
"""Limits of the tables of ANALYZE (at most 25 rows per index), which every connection has in memory."""


def admit(path: Path, into: Path, codec: Codec) -> Stamps:
    """Check an untrusted file, and write a valid collection (schema 18, WAL mode) to `into`.

    The file at `path` may be moved there. Returns the stamps of the result. Raises: InvalidDatabase.
    """
    try:
        stamps = _admit(path, into, codec, Deadline())
        mark_as_wal(into)
    except BaseException:
        into.unlink(missing_ok=True)
        raise
    return stamps


def _admit(path: Path, into: Path, codec: Codec, deadline: Deadline) -> Stamps:
    # The header and the schema decide whether the file may be used as it is; page and value checks may
    # still forbid it.
    header = read_header(path)
    with open_hostile(path, deadline) as source:
        version = _schema_version(source)
        objects: Any = source.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()
        is_tidy = (
            header.is_tidy
            and version == LATEST
            and is_latest(objects)
            and not any(_is_large_statistics(source, name) for _, name, _, _ in objects)
        )
        if not is_tidy:
            # Rows are going to be read from these tables by name, so they must be what they are called.
            _refuse_foreign_tables(source, version)
    stamps: Stamps = {}

    def check_small_tables_and_read_stamps(connection: apsw.Connection) -> None:
        check_small_tables(connection, codec, deadline)
        stamps.update(read_stamps(connection))

    # The jobs run in two threads, so this one has to return the stamps by a variable.
    value_jobs = [*value_checks(), check_small_tables_and_read_stamps]
    if is_tidy:
        try:
            _run(path, [*page_checks(), *value_jobs], deadline)
        except NeedsRebuild:
            is_tidy = False
    if is_tidy:
        shutil.move(path, into)
    else:
        _rebuild(path, into, version, deadline)
        # The rebuilt file is checked like any other: a value that could not be replaced is found here.
        _run(into, value_jobs, deadline)
    return stamps


def _run(path: Path, checks: list[Check], deadline: Deadline) -> None:
    # No value can be longer than the file.
    longest_value_bytes = max(_SHORTEST_LIMIT_BYTES, path.stat().st_size)

    def job(check: Check) -> None:
        with open_hostile(path, deadline, longest_value_bytes) as connection:
            check(connection)

    run_in_two_threads([partial(job, check) for check in checks])


def _is_large_statistics(source: apsw.Connection, name: str) -> bool:
    if not name.startswith("sqlite_stat"):
        return False
    columns = [column for _, column, *_ in source.execute(f"PRAGMA table_xinfo({name})")]
    size = " + ".join(f"coalesce(octet_length({column}), 0)" for column in columns)
    rows = f"SELECT {size} AS size FROM {name} NOT INDEXED LIMIT {_MOST_STATISTICS + 1}"  # noqa: S608 - SQLite's names
    count, size_bytes = source.execute(f"SELECT count(), sum(size) FROM ({rows})").get  # noqa: S608
    return count > _MOST_STATISTICS or (size_bytes or 0) > _MOST_STATISTICS_BYTES


def _schema_version(source: apsw.Connection) -> int:
    _refuse_foreign_table(source, "col", ("ver",))
    rows: Any = source.execute("SELECT ver FROM col LIMIT 2").fetchall()
    if len(rows) != 1 or rows[0][0] not in OPENABLE:
        raise InvalidDatabase(f"schema {rows}")
    version: int = rows[0][0]
    return version


def _refuse_foreign_tables(source: apsw.Connection, version: int) -> None:
    for table in tables(version):
        _refuse_foreign_table(source, table.name, table.columns)


def _refuse_foreign_table(source: apsw.Connection, name: str, columns: tuple[str, ...]) -> None:
    """Raises: InvalidDatabase if this is not an ordinary table with these columns.

    Uses PRAGMA statements: the table-valued function could be shadowed by a table called `pragma_table_list`.
    """
    # A view or a virtual table with this name would run code of the file.
    kinds = [row[2] for row in source.execute(f"PRAGMA main.table_list({name})")]
    if kinds != ["table"]:
        raise InvalidDatabase(f"{name} is no table")
    found: Any = source.execute(f"PRAGMA main.table_xinfo({name})").fetchall()
    # A generated column would run an expression of the file.
    if any(hidden for *_, hidden in found):
        raise InvalidDatabase(f"{name} has computed columns")
    if not {column.lower() for column in columns} <= {column.lower() for _, column, *_ in found}:
        raise InvalidDatabase(f"{name} lacks columns")


def _rebuild(path: Path, into: Path, version: int, deadline: Deadline) -> None:
    _run(path, table_checks(version), deadline)
    small = into.with_name(into.name + ".small")
    with (
        open_hostile(path, deadline, _LONGEST_REBUILT_BYTES) as source,
        create(into, LATEST, deadline) as target,
    ):
        for table in tables(LATEST):
            # Small tables of older schemas are upgraded by the engine first.
            if table.name in BIG_TABLES or version == LATEST:
                copy_table(source, target, table)
        if version != LATEST:
            _fill_small_tables(source, target, version, small, deadline)


def _fill_small_tables(
    source: apsw.Connection, target: apsw.Connection, version: int, path: Path, deadline: Deadline
) -> None:
    try:
        with upgraded_small_tables(source, version, path, deadline) as (upgraded, reset):
            for table in tables(LATEST):
                if table.name not in BIG_TABLES:
                    copy_table(upgraded, target, table)
        usn = target.execute("SELECT usn FROM col").get
        reset_eases(target, reset, usn)
    finally:
        # The temporary file of the small tables.
        path.unlink(missing_ok=True)
