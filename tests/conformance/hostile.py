"""Files that a stranger may upload in place of a collection, made from a sound one."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.differential.samples import connect

REFUSED, ACCEPTED, EITHER = "refused", "accepted", "either"
Make = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """`make` spoils the sound collection at a path; `fate` is what must become of the upload."""

    name: str
    make: Make
    fate: str


def spoiled(sound: bytes, case: Case, folder: Path) -> bytes:
    path = folder / "spoiled.anki2"
    path.write_bytes(sound)
    case.make(path)
    return path.read_bytes()


def sql(*statements: str) -> Make:
    """Statements run as SQLite allows them to anybody who has the file."""

    def make(path: Path) -> None:
        with contextlib.closing(connect(path)) as db:
            for statement in statements:
                db.execute(statement)

    return make


def schema(old: str, new: str) -> Make:
    """A table's definition changed under the rows."""

    def make(path: Path) -> None:
        with contextlib.closing(connect(path)) as db:
            db.execute("pragma writable_schema=on")
            db.execute("update sqlite_master set sql=replace(sql, ?, ?)", [old, new])

    return make


def content(data: bytes) -> Make:
    return lambda path: path.write_bytes(data) and None


def cut(change: Callable[[bytes], bytes]) -> Make:
    return lambda path: path.write_bytes(change(path.read_bytes())) and None


def put(offset: int, data: bytes) -> Make:
    return cut(lambda old: old[:offset] + data + old[offset + len(data) :])


def page_size(size: int) -> Make:
    return sql(f"pragma page_size={size}", "vacuum")


def rebuilt(pragma: str) -> Make:
    """The same rows in a new file with another setting, for what an old file cannot change."""

    def make(path: Path) -> None:
        with contextlib.closing(connect(path)) as db:
            script = list(db.iterdump())
        path.unlink()
        with contextlib.closing(connect(path)) as db:
            db.execute(pragma)
            kept = (
                line for line in script if "sqlite_stat" not in line and line != 'ANALYZE "sqlite_master";'
            )
            db.executescript("\n".join(kept))

    return make


def junk_pages(seed: int) -> Make:
    """Bytes written over at random, away from the header."""

    def change(old: bytes) -> bytes:
        rng, data = random.Random(seed), bytearray(old)
        for _ in range(rng.choice([1, 5, 40])):
            offset = rng.randrange(100, len(data) - 200)
            length = rng.choice([1, 4, 200])
            data[offset : offset + length] = rng.randbytes(length)
        return bytes(data)

    return cut(change)


def other_database(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("create table t (x)")
        db.execute("insert into t values (1)")


NOTHING = sql("select 1")
TABLES = (
    "col",
    "notes",
    "cards",
    "revlog",
    "graves",
    "notetypes",
    "fields",
    "templates",
    "decks",
    "config",
    "tags",
)
PROTOBUFS = (
    ("notetypes", "config"),
    ("fields", "config"),
    ("templates", "config"),
    ("decks", "common"),
    ("decks", "kind"),
    ("deck_config", "config"),
)


def cases() -> Iterator[Case]:
    yield from _no_collection()
    yield from _sound()
    yield from _active()
    yield from _shapes()
    yield from _values()
    for seed in range(20):
        yield Case(f"junk in pages {seed}", junk_pages(seed), EITHER)


def _no_collection() -> Iterator[Case]:
    yield Case("no byte", content(b""), REFUSED)
    yield Case("one byte", content(b"x"), REFUSED)
    yield Case("text", content(b"this is not a database" * 400), REFUSED)
    yield Case("a header alone", cut(lambda old: old[:100]), REFUSED)
    yield Case("a header and zeros", cut(lambda old: old[:100] + bytes(len(old) - 100)), REFUSED)
    yield Case("half a file", cut(lambda old: old[: len(old) // 2]), REFUSED)
    yield Case("the first page", cut(lambda old: old[:4096]), REFUSED)
    yield Case("an empty database", rebuilt_empty, REFUSED)
    yield Case("another database", other_database, REFUSED)
    yield Case("no row in col", sql("delete from col"), REFUSED)
    for table in TABLES:
        yield Case(f"no table {table}", sql(f"drop table {table}"), REFUSED)


def rebuilt_empty(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("vacuum")


def _sound() -> Iterator[Case]:
    yield Case("unchanged", NOTHING, ACCEPTED)
    for size in (512, 1024, 2048, 8192, 65536):
        yield Case(f"pages of {size} bytes", page_size(size), ACCEPTED)
    yield Case("a header that asks for a write-ahead log", put(18, b"\x02\x02"), ACCEPTED)
    yield Case("an auto-vacuum database", sql("pragma auto_vacuum=full", "vacuum"), ACCEPTED)
    yield Case("UTF-16 text", rebuilt("pragma encoding='UTF-16le'"), EITHER)
    yield Case(
        "another application's mark", sql("pragma application_id=12345", "pragma user_version=77"), ACCEPTED
    )
    yield Case("free pages", sql("create table big as select randomblob(100000)", "drop table big"), ACCEPTED)
    yield Case("bytes after the end", cut(lambda old: old + bytes(4096)), EITHER)
    yield Case("no statistics", sql("drop table if exists sqlite_stat4", "drop table sqlite_stat1"), EITHER)
    yield Case("false statistics", sql("update sqlite_stat1 set stat='x y z'"), EITHER)


def _active() -> Iterator[Case]:
    """What runs by itself when the file is used must reach nobody."""
    trigger = "create trigger t after {} on {} begin delete from {}; end"
    yield Case("a trigger on update", sql(trigger.format("update", "col", "notes")), EITHER)
    yield Case("a trigger on insert", sql(trigger.format("insert", "cards", "revlog")), EITHER)
    yield Case("a trigger on delete", sql(trigger.format("delete", "graves", "cards")), EITHER)
    yield Case("a view", sql("create view v as select * from notes"), EITHER)
    yield Case("a full-text table", sql("create virtual table f using fts5(x)"), EITHER)
    for table in ("notes", "cards", "col", "decks", "config", "graves", "revlog"):
        moved = sql(
            f"alter table {table} rename to old_{table}", f"create view {table} as select * from old_{table}"
        )
        yield Case(f"a view for {table}", moved, REFUSED)
    yield Case("a temporary-looking index", sql("create index x on notes (upper(flds))"), EITHER)
    yield Case("an index over an expression", sql("create index x on cards (abs(due))"), EITHER)
    yield Case("a foreign table", sql("create table addon (x)", "insert into addon values (1)"), EITHER)


def _shapes() -> Iterator[Case]:
    yield Case("notes without a key", _copy_table("notes", "create table notes as select * from old"), EITHER)
    columns = "id integer primary key, guid text, mid integer, mod integer, usn integer"
    yield Case("notes of few columns", sql("drop table notes", f"create table notes ({columns})"), REFUSED)
    yield Case("cards of few columns", sql("drop table cards", "create table cards (id, usn)"), REFUSED)
    yield Case("one column more in notes", sql("alter table notes add column more"), EITHER)
    yield Case("one column more in cards", sql("alter table cards add column more default 7"), EITHER)
    yield Case("one column more in col", sql("alter table col add column more"), EITHER)
    yield Case(
        "a check on cards",
        schema("queue integer NOT NULL", "queue integer NOT NULL check (queue > 5)"),
        EITHER,
    )
    yield Case(
        "a default that is a call", schema("odue integer NOT NULL", "odue integer default (random())"), EITHER
    )
    generated = sql("alter table notes add column g text generated always as (flds || flds) virtual")
    yield Case("a generated column", generated, EITHER)
    yield Case("an unknown collation", schema("COLLATE unicase", "COLLATE nowhere"), REFUSED)
    yield Case("a definition that is no SQL", schema("CREATE TABLE revlog", "CREATE TABBLE revlog"), REFUSED)
    yield Case("two definitions of a table", sql("pragma writable_schema=on", DUPLICATE), REFUSED)
    yield Case(
        "two rows in col",
        sql("insert into col select 2, crt, mod, scm, ver, dty, usn, ls, '', '', '', '', '' from col"),
        EITHER,
    )
    for version in (0, 1, 10, 12, 19, 99, -1):
        yield Case(
            f"schema {version}", sql(f"update col set ver={version}"), EITHER if version == 12 else REFUSED
        )


DUPLICATE = """
    insert into sqlite_master
    select type, name, tbl_name, rootpage, sql from sqlite_master where name='notes'
"""


def _copy_table(table: str, create: str) -> Make:
    return sql(f"create table old as select * from {table}", f"drop table {table}", create, "drop table old")


def _values() -> Iterator[Case]:
    for usn in (2**31 - 1, 2**31, 2**62, -1, -5, "'x'", "1.5", "x'00'"):
        yield Case(f"usn of the collection {usn}", sql(f"update col set usn={usn}"), EITHER)
        yield Case(f"usn of cards {usn}", sql(f"update cards set usn={usn}"), EITHER)
        yield Case(f"usn of graves {usn}", sql(f"insert into graves values (5, 1, {usn})"), EITHER)
    for stamp in (2**63 - 1, -(2**63), -1, "'x'"):
        yield Case(f"stamps of {stamp}", sql(f"update col set mod={stamp}, scm={stamp}"), EITHER)
        yield Case(f"creation {stamp}", sql(f"update col set crt={stamp}"), EITHER)
    for table, column in PROTOBUFS:
        for blob in ("x'ffffffff'", "x''", "'text'", "7", "zeroblob(100000)"):
            yield Case(f"{table}.{column} is {blob}", sql(f"update {table} set {column}={blob}"), EITHER)
    for value in ("x'7b'", "x''", "x'ff'", "'null'", "5"):
        yield Case(f"configuration is {value}", sql(f"update config set val={value}"), EITHER)
    for value in ("cast(x'ff41' as text)", "x'ff'", "7", "1.5", "cast(x'410042' as text)"):
        yield Case(f"fields are {value}", sql(f"update notes set flds={value}"), EITHER)
        yield Case(f"tags are {value}", sql(f"update notes set tags={value}"), EITHER)
        yield Case(f"guid is {value}", sql(f"update notes set guid={value}"), EITHER)
        yield Case(f"data of cards is {value}", sql(f"update cards set data={value}"), EITHER)
    for column, value in (
        ("due", 2**62),
        ("ord", -5),
        ("ord", 70_000),
        ("queue", 99),
        ("type", 99),
        ("did", "'x'"),
    ):
        yield Case(f"{column} of cards is {value}", sql(f"update cards set {column}={value}"), EITHER)
    yield Case("notes of no notetype", sql("update notes set mid=99"), EITHER)
    yield Case("cards of no note", sql("update cards set nid=99"), EITHER)
    yield Case("no default deck", sql("delete from decks"), EITHER)
    yield Case(
        "no notetype", sql("delete from notetypes", "delete from fields", "delete from templates"), EITHER
    )
    yield Case("a field without its notetype", sql("update fields set ntid=99"), EITHER)
    yield Case("no configuration", sql("delete from config"), EITHER)
    yield Case("a tag with spaces", sql("insert into tags values ('a b  c', 0, 0, null)"), EITHER)
    yield Case(
        "names of ten thousand letters", sql("update decks set name=hex(zeroblob(5000)) where id=1"), EITHER
    )
    yield Case(
        "a deck named by control characters",
        sql("update decks set name=char(1,31,10,0,9) where id=1"),
        EITHER,
    )
