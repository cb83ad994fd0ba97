"""The checks of an uploaded collection: after them no later step can fail on it. Used by `admit`.

Pages: the same as `integrity_check` of the file, split into parts that can run in two threads.
`quick_check` of the file finds pages that are used twice, lost or out of order, and missing values;
`integrity_check` of each table compares it with its indexes. Values: each column has what its readers
expect, see `storage.collection.rules`.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import apsw
import msgspec

from storage.collection.engine.codec import Codec, DeckConfigRow, DeckRow
from storage.collection.rules import HIGHEST_USN
from storage.collection.tables import notetypes
from storage.collection.upload.ddl import BIG_TABLES, LATEST, Table, tables
from storage.collection.upload.untrusted import Deadline, limit_values
from storage.errors import Corrupt, InvalidDatabase

T = TypeVar("T")


class NeedsRebuild(InvalidDatabase):
    """The file is valid, but some values must be replaced, so it has to be rebuilt."""


Check = Callable[[apsw.Connection], None]

_SHORT_BYTES = 1 << 20
"""Longer texts are read in pieces, so that a very large note does not take as much memory."""

_PIECE_BYTES = 1 << 16

_OBJECTS_AT_ONCE = 50
"""Objects per call of the engine: with one object per call, most of the time is spent on the calls."""

_MOST_PARTS = 8_000_000
"""The most parts of config, decks, deck options and notetypes in total; a sync may decode all of them."""

_DEEPEST_CONFIG = 124
"""Clients parse 127 levels of JSON; in a message there are three levels around a value of the config."""

_LARGEST_SMALL_VALUE_BYTES = 32 << 20
"""The largest value in tables whose rows are decoded as a whole."""


def page_checks() -> list[Check]:
    """The checks of the pages of a schema 18 file without foreign objects, longest first."""
    small = [table.name for table in tables(LATEST) if table.name not in BIG_TABLES]
    # With two threads the longest jobs must start first.
    return [_with_indexes("revlog"), _whole_file, *map(_with_indexes, ("notes", "cards", *small))]


def table_checks(version: int) -> list[Check]:
    """The checks of each table without its indexes, which will be created anew."""
    return [_alone(table.name) for table in tables(version)]


def value_checks() -> list[Check]:
    """The checks of the values of notes, cards and reviews in a schema 18 collection."""
    kinds = [_values(table) for table in tables(LATEST) if table.name in BIG_TABLES]
    return [*kinds, _check_text_of_notes, _check_text_of_cards]


def check_small_tables(connection: apsw.Connection, codec: Codec, deadline: Deadline) -> None:
    """Check the values of all other tables; each check relies on the ones before it."""
    # These rows are decoded in memory, so their size is limited first.
    limit_values(connection, _LARGEST_SMALL_VALUE_BYTES)
    for table in tables(LATEST):
        if table.name not in BIG_TABLES:
            _values(table)(connection)
    # From here on all values have the right types.
    _check_one_col(connection)
    _check_graves(connection)
    parts = _Parts()
    _check_config(connection, parts)
    for _ in connection.execute("SELECT tag FROM tags"):
        pass  # reading is the check: text that is not UTF-8 raises an error
    _check_decodable(connection, codec, parts, deadline)


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
    odd = {name: rule.odd for name, rule in table.rules.items() if rule.odd}
    any_odd = " OR ".join(odd.values())

    def check(connection: apsw.Connection) -> None:
        sql = f"SELECT {{}} FROM {table.name} NOT INDEXED WHERE {any_odd} LIMIT 1"  # noqa: S608 - our words
        # One condition for all columns, so that valid tables are scanned once.
        if connection.execute(sql.format("1")).get is not None:
            # Only for the message: find the column.
            which = " ".join(f"WHEN {condition} THEN '{name}'" for name, condition in odd.items())
            column = connection.execute(sql.format(f"CASE {which} END")).get
            raise NeedsRebuild(f"a value that cannot be in {table.name}.{column}")

    return check


def _check_text_of_notes(connection: apsw.Connection) -> None:
    _check_text(connection, "notes", ("guid", "tags", "flds"))


def _check_text_of_cards(connection: apsw.Connection) -> None:
    try:
        _check_text(connection, "cards", ("data",))
    except UnicodeDecodeError as exc:
        raise NeedsRebuild("a text that is no UTF-8 in cards.data") from exc


def _check_text(connection: apsw.Connection, table: str, columns: tuple[str, ...]) -> None:
    """Read all texts. Raises: UnicodeDecodeError if one is not UTF-8."""
    size = " + ".join(f"octet_length({column})" for column in columns)
    sql = f"SELECT {{}} FROM {table} NOT INDEXED WHERE {size} {{}} {_SHORT_BYTES}"  # noqa: S608 - our words
    for _ in connection.execute(sql.format(", ".join(columns), "<=")):
        pass
    for (row_id,) in connection.execute(sql.format("id", ">")):
        for column in columns:
            _check_long_text(connection, table, column, row_id)


def _check_long_text(connection: apsw.Connection, table: str, column: str, row_id: int) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with connection.blob_open("main", table, column, row_id, False) as blob:  # noqa: FBT003 - apsw's
        while piece := blob.read(_PIECE_BYTES):
            decoder.decode(piece)
    decoder.decode(b"", final=True)


def _check_one_col(connection: apsw.Connection) -> None:
    rows: Any = connection.execute("SELECT ver, usn FROM col LIMIT 2").fetchall()
    if len(rows) != 1:
        raise InvalidDatabase("not one row in col")
    [(version, usn)] = rows
    if version != LATEST or not 0 <= usn <= HIGHEST_USN:
        raise InvalidDatabase(f"schema {version} at USN {usn}")


def _check_graves(connection: apsw.Connection) -> None:
    if connection.execute("SELECT 1 FROM graves WHERE type NOT IN (0, 1, 2) LIMIT 1").get is not None:
        raise InvalidDatabase("a grave of unknown kind")


class _Parts:
    """Limits the memory that decoding takes, before it is done: 3 bytes of JSON can become 64 in memory."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, *values: bytes) -> None:
        """Count the parts of these values. Raises: InvalidDatabase if there are too many in total."""
        self._count += sum(value.count(mark) for value in values for mark in (b",", b"[", b"{"))
        if self._count > _MOST_PARTS:
            raise InvalidDatabase("too many lists, objects and members in config, decks and notetypes")


def _check_config(connection: apsw.Connection, parts: _Parts) -> None:
    try:
        # The key is selected so that its text is decoded, too.
        for row in connection.execute("SELECT val, key FROM config"):
            value: Any = row[0]
            parts.add(value)
            if _depth(msgspec.json.decode(value)) > _DEEPEST_CONFIG:
                raise InvalidDatabase("config that is nested too deeply")
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise InvalidDatabase("config that is no JSON") from exc


def _depth(value: object) -> int:
    depth, inner = 0, [value]
    # Level by level, without recursion, as the nesting may be very deep.
    while outer := [one for one in inner if isinstance(one, dict | list)]:
        inner = [one for each in outer for one in (each.values() if isinstance(each, dict) else each)]
        depth += 1
    return depth


def _check_decodable(connection: apsw.Connection, codec: Codec, parts: _Parts, deadline: Deadline) -> None:
    decks: Any = connection.execute("SELECT id, name, mtime_secs, usn, common, kind FROM decks")
    configs: Any = connection.execute("SELECT id, name, mtime_secs, usn, config FROM deck_config")
    ids: Any = connection.execute("SELECT id FROM notetypes").fetchall()
    try:
        for some in _batches(map(DeckRow._make, decks), deadline):
            parts.add(*(blob for deck in some for blob in (deck.common, deck.kind)))
            codec.deck_dicts(some)
        for some_configs in _batches(map(DeckConfigRow._make, configs), deadline):
            parts.add(*(config.config for config in some_configs))
            codec.deck_config_dicts(some_configs)
        for some_ids in _batches(ids, deadline):
            rows = [notetypes.read(connection, notetype_id) for (notetype_id,) in some_ids]
            parts.add(*(row.config for row in rows))
            # Fields and templates of these notetypes.
            parts.add(*(part.config for row in rows for part in (*row.fields, *row.templates)))
            codec.notetype_dicts(rows)
    except Corrupt as exc:
        raise InvalidDatabase(str(exc)) from exc


def _batches(rows: Iterable[T], deadline: Deadline) -> Iterator[list[T]]:
    """The rows in lists of limited length. Raises: InvalidDatabase if the deadline is over."""
    rest = iter(rows)
    while batch := list(islice(rest, _OBJECTS_AT_ONCE)):
        deadline.check()
        yield batch
