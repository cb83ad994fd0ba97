"""What must hold for a collection so that no later step can fail on it.

The pages: `integrity_check` of the whole file, in parts that can run side by side. `quick_check` of
the file finds a page used twice, lost or out of order and a missing value; `integrity_check` of each
table compares it with its indexes. Together that is all that `integrity_check` of the file looks at.
The values: each column holds the kind of value that its readers expect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw
import msgspec

from storage.collection import notetypes
from storage.collection.codec import Codec, DeckConfigRow, DeckRow
from storage.collection.ddl import BIG_TABLES, LATEST, Table, tables
from storage.errors import Corrupt, InvalidDatabase


class Untidy(InvalidDatabase):
    """Nothing is lost, but the values must be cleaned before they are kept."""


Check = Callable[[apsw.Connection], None]

_HIGHEST_USN = 2_000_000_000
"""A USN has 31 bits; there must be room for it to go up."""

_LATEST_TIME_MS = 2**53


def page_checks() -> list[Check]:
    """The checks of the pages of a schema 18 file without foreign objects, longest first."""
    small = [table.name for table in tables(LATEST) if table.name not in BIG_TABLES]
    return [_with_indexes("revlog"), _whole_file, *map(_with_indexes, ("notes", "cards", *small))]


def table_checks(version: int) -> list[Check]:
    """The checks of each table alone, whose indexes will be made anew."""
    return [_alone(table.name) for table in tables(version)]


def value_checks() -> list[Check]:
    """The checks of the values of notes, cards and reviews in a schema 18 collection."""
    return [*(_values(table) for table in tables(LATEST) if table.name in BIG_TABLES), _check_text]


def check_small_tables(connection: apsw.Connection, codec: Codec) -> None:
    """Check the values of all other tables, in an order in which none can trip over another's."""
    for table in tables(LATEST):
        if table.name not in BIG_TABLES:
            _values(table)(connection)
    _check_one_col(connection)
    _check_graves(connection)
    _check_config(connection)
    _check_decodable(connection, codec)


def _whole_file(connection: apsw.Connection) -> None:
    _expect_ok(connection, "quick_check(1)")


def _with_indexes(table: str) -> Check:
    return lambda connection: _expect_ok(connection, f"integrity_check({table})")


def _alone(table: str) -> Check:
    return lambda connection: _expect_ok(connection, f"quick_check({table})")


def _expect_ok(connection: apsw.Connection, pragma: str) -> None:
    found = connection.execute(f"PRAGMA {pragma}").fetchone()
    if found != ("ok",):
        raise InvalidDatabase(f"{pragma}: {found and found[0]}")


def _values(table: Table) -> Check:
    def check(connection: apsw.Connection) -> None:
        if _has(connection, table, ("'integer'", "'text'", "'blob'")):
            if _has(connection, table, ("'integer', 'real'", "'text'", "'blob'")):
                raise InvalidDatabase(f"a value of another kind than its column in {table.name}")
            raise Untidy(f"a fraction in {table.name}")
        if "usn" in table.columns:
            sql = f"SELECT min(usn), max(usn) FROM {table.name}"  # noqa: S608 - our names
            usns: Any = connection.execute(sql).fetchone()
            lowest, highest = usns
            if lowest is not None and not (-1 <= lowest <= highest <= _HIGHEST_USN):
                raise InvalidDatabase(f"USN {lowest} to {highest} in {table.name}")

    return check


def _has(connection: apsw.Connection, table: Table, kinds: tuple[str, str, str]) -> bool:
    """Whether a row has a value of another kind than these, for integers, texts and blobs."""
    columns = zip((table.integers, table.texts, table.blobs), kinds, strict=True)
    wrong = " OR ".join(f"typeof({name}) NOT IN ({kind})" for names, kind in columns for name in names)
    sql = f"SELECT 1 FROM {table.name} NOT INDEXED WHERE {wrong} LIMIT 1"  # noqa: S608 - our names
    return connection.execute(sql).get is not None


def _check_text(connection: apsw.Connection) -> None:
    """Reading is the check: text that is no UTF-8 raises."""
    for _ in connection.execute("SELECT guid, tags, flds FROM notes"):
        pass
    for _ in connection.execute("SELECT data FROM cards"):
        pass
    for _ in connection.execute("SELECT tag FROM tags"):
        pass


def _check_one_col(connection: apsw.Connection) -> None:
    rows = connection.execute("SELECT ver, usn, mod, scm, ls FROM col LIMIT 2").fetchall()
    if len(rows) != 1:
        raise InvalidDatabase("not one row in col")
    row: Any = rows[0]
    version, usn, *times_ms = row
    if version != LATEST or not 0 <= usn <= _HIGHEST_USN:
        raise InvalidDatabase(f"schema {version} at USN {usn}")
    if not all(0 <= time_ms < _LATEST_TIME_MS for time_ms in times_ms):
        raise InvalidDatabase("a time out of range in col")


def _check_graves(connection: apsw.Connection) -> None:
    if connection.execute("SELECT 1 FROM graves WHERE type NOT IN (0, 1, 2) LIMIT 1").get is not None:
        raise InvalidDatabase("a grave of unknown kind")


def _check_config(connection: apsw.Connection) -> None:
    try:
        for row in connection.execute("SELECT val, key FROM config"):
            msgspec.json.decode(row[0])
    except msgspec.DecodeError as exc:
        raise InvalidDatabase("config that is no JSON") from exc


def _check_decodable(connection: apsw.Connection, codec: Codec) -> None:
    try:
        for deck in connection.execute("SELECT id, name, mtime_secs, usn, common, kind FROM decks"):
            codec.deck_dicts([DeckRow._make(deck)])
        for config in connection.execute("SELECT id, name, mtime_secs, usn, config FROM deck_config"):
            codec.deck_config_dicts([DeckConfigRow._make(config)])
        for (notetype_id,) in connection.execute("SELECT id FROM notetypes"):
            codec.notetype_dicts([notetypes.read(connection, notetype_id)])
    except Corrupt as exc:
        raise InvalidDatabase(str(exc)) from exc
