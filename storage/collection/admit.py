"""Full uploads: a stranger's file becomes a collection that every later step can rely on, or is refused."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from storage.collection.codec import Codec
from storage.collection.ddl import BIG_TABLES, LATEST, OPENABLE, is_latest, tables
from storage.collection.header import mark_as_wal, read_header
from storage.collection.hostile import open_hostile
from storage.collection.rebuild import copy_table, create
from storage.collection.soundness import (
    Check,
    Untidy,
    check_small_tables,
    page_checks,
    table_checks,
    value_checks,
)
from storage.collection.stamps import Stamps, read_stamps
from storage.collection.together import run_together
from storage.collection.upgrade import reset_eases, upgraded_small_tables
from storage.errors import InvalidDatabase


def admit(path: Path, into: Path, codec: Codec) -> Stamps:
    """Check a file of any origin, and put a sound collection (schema 18, WAL mode) at `into`.

    The file at `path` may be moved there: the usual upload, which a client vacuumed just before,
    is taken as it is. Any other is built anew from its rows. Raises: InvalidDatabase.
    """
    try:
        stamps = _admit(path, into, codec)
        mark_as_wal(into)
    except BaseException:
        into.unlink(missing_ok=True)
        raise
    return stamps


def _admit(path: Path, into: Path, codec: Codec) -> Stamps:
    header = read_header(path)
    with open_hostile(path) as source:
        version = _schema_version(source)
        is_tidy = header.is_tidy and version == LATEST and is_latest(_objects(source))
        if not is_tidy:
            _refuse_foreign_tables(source, version)
    stamps: Stamps = {}

    def check_small_tables_and_read_stamps(connection: apsw.Connection) -> None:
        check_small_tables(connection, codec)
        stamps.update(read_stamps(connection))

    value_jobs = [*value_checks(), check_small_tables_and_read_stamps]
    if is_tidy:
        try:
            _run(path, [*page_checks(), *value_jobs])
        except Untidy:
            is_tidy = False
    if is_tidy:
        shutil.move(path, into)
    else:
        _rebuild(path, into, version)
        _run(into, value_jobs)
    return stamps


def _run(path: Path, checks: list[Check]) -> None:
    def job(check: Check) -> None:
        with open_hostile(path) as connection:
            check(connection)

    run_together([partial(job, check) for check in checks])


def _objects(source: apsw.Connection) -> list[Any]:
    return source.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()


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
    """Refuse what is no plain table with these columns."""
    kinds = source.execute(
        "SELECT type FROM pragma_table_list WHERE schema = 'main' AND name = ?", (name,)
    ).fetchall()
    if kinds != [("table",)]:
        raise InvalidDatabase(f"{name} is no table")
    found: Any = source.execute("SELECT name, hidden FROM pragma_table_xinfo(?)", (name,)).fetchall()
    if any(hidden for _, hidden in found):
        raise InvalidDatabase(f"{name} has computed columns")
    if not {column.lower() for column in columns} <= {column.lower() for column, _ in found}:
        raise InvalidDatabase(f"{name} lacks columns")


def _rebuild(path: Path, into: Path, version: int) -> None:
    _run(path, table_checks(version))
    small = into.with_name(into.name + ".small")
    with open_hostile(path) as source, create(into, LATEST) as target:
        for table in tables(LATEST):
            if table.name in BIG_TABLES or version == LATEST:
                copy_table(source, target, table)
        if version != LATEST:
            _fill_small_tables(source, target, version, small)


def _fill_small_tables(source: apsw.Connection, target: apsw.Connection, version: int, path: Path) -> None:
    try:
        with upgraded_small_tables(source, version, path) as (upgraded, reset):
            for table in tables(LATEST):
                if table.name not in BIG_TABLES:
                    copy_table(upgraded, target, table)
        usn = target.execute("SELECT usn FROM col").get
        reset_eases(target, reset, usn)
    finally:
        path.unlink(missing_ok=True)
