"""Full uploads: sound collections come in whole, everything else is refused, and nothing foreign stays."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys

import apsw
import pytest
from anki._backend import RustBackend

from storage.collection import schema
from storage.collection.engine.downgrade import downgrade
from storage.collection.records import Chunk
from storage.collection.schema import compare_unicase, configure
from storage.collection.stamps import read_stamps
from storage.collection.upload import ddl, untrusted
from storage.collection.upload.admit import admit
from storage.collection.upload.rebuild import create
from storage.collection.upload.untrusted import Deadline
from storage.errors import InvalidDatabase


def test_the_usual_upload_is_kept_as_it_is(upload, admitted, assert_sound):
    path = upload()
    before = path.read_bytes()
    into = admitted(path)
    assert into.read_bytes() == before[:18] + b"\x02\x02" + before[20:]
    assert_sound(into)
    assert not path.exists()


def test_stamps_tell_what_is_in_the_file(upload, tmp_path, codec, connect):
    stamps = admit(upload(), tmp_path / "into.anki2", codec)
    with connect(tmp_path / "into.anki2") as db:
        assert stamps == read_stamps(db)
        assert stamps["cards"] == db.execute("SELECT count() FROM cards").get
        assert stamps["scm"] == db.execute("SELECT scm FROM col").get
    assert stamps["usn"] == 10
    assert stamps["v2"] is True
    assert stamps["unsynced"] is False


def test_rows_that_were_never_sent_are_noticed(upload, tmp_path, codec):
    stamps = admit(upload("UPDATE notes SET usn = -1"), tmp_path / "into.anki2", codec)
    assert stamps["unsynced"] is True


def test_a_collection_that_clients_analysed_is_kept_as_it_is(upload, admitted):
    path = upload("ANALYZE")
    before = path.read_bytes()
    assert admitted(path).read_bytes()[20:] == before[20:]


TIDIED = {
    "not vacuumed": {"statements": ["DELETE FROM revlog; DROP TABLE sqlite_stat4"], "vacuum": False},
    "pages of 512 bytes": {"pragmas": ["page_size = 512"]},
    "pages of 65536 bytes": {"pragmas": ["page_size = 65536"]},
    "auto-vacuum": {"pragmas": ["auto_vacuum = FULL"]},
    "incremental auto-vacuum": {"pragmas": ["auto_vacuum = INCREMENTAL"]},
    "a foreign table": {"statements": ["CREATE TABLE mine (x); INSERT INTO mine VALUES (1)"]},
    "a foreign index": {"statements": ["CREATE INDEX mine ON cards (mod, ivl + 1) WHERE ivl > abs(3)"]},
    "a missing index": {"statements": ["DROP INDEX ix_revlog_usn"]},
    "a trigger": {"statements": ["CREATE TRIGGER t AFTER INSERT ON cards BEGIN DELETE FROM notes; END"]},
    "a view": {"statements": ["CREATE VIEW v AS SELECT * FROM cards"]},
    "a full-text table": {"statements": ["CREATE VIRTUAL TABLE f USING fts5(a); INSERT INTO f VALUES ('x')"]},
    "a column more": {"statements": ["ALTER TABLE cards ADD COLUMN mine integer DEFAULT 5"]},
}  # fmt: skip


@pytest.mark.parametrize("change", TIDIED.values(), ids=TIDIED.keys())
def test_what_is_not_ankis_stays_behind(upload, admitted, change, contents, assert_sound, exercise):
    options = {key: value for key, value in change.items() if key != "statements"}
    path = upload(*change.get("statements", ()), **options)
    before = contents(path)
    into = admitted(path)
    assert_sound(into)
    assert contents(into) == before
    exercise(into)


def test_what_follows_the_last_page_is_dropped(upload, admitted, contents, assert_sound):
    path = upload()
    before = contents(path)
    with path.open("ab") as file:
        file.write(b"junk" * 5000)
    into = admitted(path)
    assert_sound(into)
    assert contents(into) == before
    assert b"junkjunk" not in into.read_bytes()


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_text_of_another_encoding_is_translated(
    base_file, tmp_path, admitted, connect, encoding, contents, assert_sound
):
    path = tmp_path / "utf16.anki2"
    target = apsw.Connection(str(path))
    configure(target)
    target.execute(f"PRAGMA encoding = '{encoding}'")
    with connect(base_file) as source:
        for (sql,) in source.execute("SELECT sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite%'"):
            target.execute(sql)
        for table in ddl.tables(ddl.LATEST):
            rows = source.execute(f"SELECT * FROM {table.name}").fetchall()
            marks = ", ".join("?" * len(table.columns))
            target.executemany(f"INSERT INTO {table.name} VALUES ({marks})", rows)
    target.close()
    into = admitted(path)
    assert_sound(into)
    assert contents(into) == contents(base_file)


def test_bytes_reserved_on_each_page_are_given_up(
    upload, admitted, tmp_path, connect, contents, assert_sound
):
    path = upload()
    with connect(path) as db:
        db.reserve_bytes("main", 32)
        db.execute("VACUUM")
    assert path.read_bytes()[20] == 32
    before = contents(path)
    into = admitted(path)
    assert_sound(into)
    assert contents(into) == before


def test_fractions_among_integers_are_cut_off(upload, admitted, connect, assert_sound):
    into = admitted(upload("UPDATE cards SET factor = 2500.5, left = 1.5", "UPDATE col SET scm = 5.5"))
    assert_sound(into)
    with connect(into) as db:
        assert db.execute("SELECT DISTINCT factor, left FROM cards").fetchall() == [(2500, 1)]
        assert db.execute("SELECT scm FROM col").get == 5


MAX = 2**63 - 1

MENDED = [
    # what the official server never reads, or reads as a default
    ("UPDATE col SET dty = 'x', conf = x'00', models = x'', decks = x'7b', dconf = x'00', tags = x'00'",
     "SELECT dty, conf, models, decks, dconf, tags FROM col", (0, "", "", "", "", "")),
    ("UPDATE config SET usn = 'x', mtime_secs = x'00'",
     "SELECT DISTINCT usn, mtime_secs FROM config", (10, 0)),
    ("UPDATE config SET usn = 1.5, mtime_secs = 1e300",
     "SELECT DISTINCT usn, mtime_secs FROM config", (10, 0)),
    ("UPDATE graves SET usn = 'x'", "SELECT DISTINCT usn FROM graves", (10,)),
    ("INSERT INTO fields VALUES ('x', 0, 'lost', x'')",
     "SELECT count() FROM fields WHERE name = 'lost'", (0,)),
    ("INSERT INTO templates VALUES (x'00', 0, 'lost', 0, 0, x'')",
     "SELECT count() FROM templates WHERE name = 'lost'", (0,)),
    ("UPDATE cards SET data = CAST(x'61ff62' AS text)", "SELECT DISTINCT data FROM cards", ("a\ufffdb",)),
    # USNs that are none, and times that have no later one
    ("UPDATE notes SET usn = 3000000000", "SELECT DISTINCT usn FROM notes", (10,)),
    ("UPDATE revlog SET usn = -2", "SELECT DISTINCT usn FROM revlog", (10,)),
    (f"UPDATE decks SET usn = {MAX}", "SELECT DISTINCT usn FROM decks", (10,)),
    (f"UPDATE col SET mod = {MAX}", "SELECT mod FROM col", (1,)),
    (f"UPDATE col SET mod = -1, scm = {MAX}, ls = -5", "SELECT mod, scm, ls FROM col", (-1, MAX, -5)),
    # what no message has room for
    (f"UPDATE cards SET ord = -1, factor = 70000, flags = 256, reps = {MAX}, lapses = -{MAX}, left = -1",
     "SELECT DISTINCT ord, factor, flags, reps, lapses, left FROM cards", (0, 65535, 255, 2**32 - 1, 0, 0)),
    ("UPDATE cards SET type = 256 + 2, queue = 255", "SELECT DISTINCT type, queue FROM cards", (2, -1)),
    (f"UPDATE cards SET type = 7, queue = {MAX - 100}", "SELECT DISTINCT type, queue FROM cards", (0, 0)),
    ("UPDATE cards SET ivl = -7", "SELECT DISTINCT ivl FROM cards", (0,)),
    ("UPDATE revlog SET ease = 256, factor = -1, ivl = 1e300, lastIvl = -3000000000",
     "SELECT DISTINCT ease, factor, ivl, lastIvl FROM revlog", (255, 0, 2**31 - 1, -(2**31))),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "query", "expected"), MENDED, ids=[row[0][:60] for row in MENDED])
def test_what_harms_nobody_is_mended(upload, admitted, connect, statement, query, expected, exercise):
    into = admitted(upload(statement))
    with connect(into) as db:
        assert db.execute(query).fetchall() == [expected]
    exercise(into)


OPTIONAL = ("due", "odue", "data")


@pytest.mark.parametrize("column", OPTIONAL)
def test_a_missing_value_that_the_official_server_takes_is_a_default(
    upload, admitted, connect, column, exercise
):
    path = upload()
    with connect(path) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '') WHERE name = 'cards'")
    with connect(path) as db:
        db.execute(f"UPDATE cards SET {column} = NULL")
    into = admitted(path)
    with connect(into) as db:
        assert db.execute(f"SELECT DISTINCT {column} FROM cards").get == ("" if column == "data" else 0)
    exercise(into)


LONG_BYTES = 33 << 20


def long_field(path, connect, length):
    """Give one note a field of so many bytes."""
    with connect(path) as db:
        db.execute("UPDATE notes SET flds = ? WHERE id = (SELECT min(id) FROM notes)", ("é" * (length // 2),))
        db.execute("VACUUM")
    return path


@pytest.mark.parametrize("statements", [[], ["CREATE TABLE mine (x)"]], ids=["as it is", "built anew"])
def test_a_note_longer_than_32_mib_is_taken(upload, admitted, connect, statements):
    into = admitted(long_field(upload(*statements), connect, LONG_BYTES))
    with connect(into) as db:
        assert db.execute("SELECT max(octet_length(flds)) FROM notes").get == LONG_BYTES


@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_a_long_text_that_is_no_utf8_is_refused(upload, admitted, connect, at):
    path = long_field(upload(), connect, 3 << 20)
    content = bytearray(path.read_bytes())
    first, last = content.index("é".encode() * 100), content.rindex("é".encode() * 100)
    content[int(first + (last - first) * at)] = 0xFF
    path.write_bytes(content)
    with pytest.raises(InvalidDatabase):
        admitted(path)


STATISTICS = {
    "stat4 of many rows": "INSERT INTO sqlite_stat4 SELECT s.tbl, s.idx, s.neq, s.nlt, s.ndlt, s.sample "
    "FROM sqlite_stat4 AS s, (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 500) "
    "SELECT i FROM n)",
    "stat4 of large samples": "UPDATE sqlite_stat4 SET sample = zeroblob(20000)",
    "stat1 of large texts": "UPDATE sqlite_stat1 SET stat = hex(zeroblob(20000))",
    "stat1 of foreign tables": "INSERT INTO sqlite_stat1 SELECT hex(zeroblob(200000)), NULL, '1'",
    "stat3": "PRAGMA writable_schema = ON; CREATE TABLE sqlite_stat3 (tbl, idx, neq, nlt, ndlt, sample)",
}


@pytest.mark.parametrize("statement", STATISTICS.values(), ids=STATISTICS.keys())
def test_statistics_that_no_analysis_made_stay_behind(
    upload, admitted, connect, statement, contents, assert_sound
):
    path = upload("ANALYZE", statement, pragmas=["writable_schema = OFF"])
    before = contents(path)
    into = admitted(path)
    assert_sound(into)
    assert contents(into) == before
    with connect(into) as db:
        assert db.execute("SELECT count() FROM sqlite_schema WHERE name LIKE 'sqlite_stat%'").get == 0


def test_a_table_that_answers_for_a_function_of_sqlite_deceives_nobody(upload, admitted):
    """An R-tree has columns of any name, and its rows are what its own tables say."""
    columns = ", ".join(next(table for table in ddl.tables(18) if table.name == "revlog").columns)
    path = upload(
        "DROP TABLE revlog",
        f"CREATE VIRTUAL TABLE revlog USING rtree_i32({columns})",
        "CREATE TABLE pragma_table_list (schema, name, type)",
        "CREATE TABLE pragma_table_xinfo (name, hidden)",
        *(
            f"INSERT INTO pragma_table_list VALUES ('main', '{table.name}', 'table')"
            for table in ddl.tables(18)
        ),
        *(
            f"INSERT INTO pragma_table_xinfo VALUES ('{column}', 0)"
            for table in ddl.tables(18)
            for column in table.columns
        ),
    )
    with pytest.raises(InvalidDatabase, match="revlog is no table"):
        admitted(path)


@pytest.mark.parametrize("order", ["tag", "random()"])
def test_many_tags_cost_few_comparisons_in_a_rebuild(upload, admitted, connect, monkeypatch, order):
    count = 20_000
    path = upload(
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {count}) "
        "INSERT INTO tags SELECT 'Deck::Step' || (i % 7) || '::t' || i, 1, 0, NULL FROM n",
        "CREATE TABLE unordered AS SELECT * FROM tags",
        "DROP TABLE tags",
        "CREATE TABLE tags (tag, usn, collapsed, config)",
        f"INSERT INTO tags SELECT * FROM unordered ORDER BY {order}",
        "INSERT INTO tags VALUES ('deck' || hex(zeroblob(5000)), 1, 0, NULL)",
    )
    compared = 0

    def compare(left, right):
        nonlocal compared
        compared += 1
        return compare_unicase(left, right)

    monkeypatch.setattr(schema, "compare_unicase", compare)
    into = admitted(path)
    assert compared < 4 * count
    with connect(into) as db:
        assert db.execute("SELECT count() FROM tags WHERE tag LIKE 'deck%'").get == count + 1
        assert db.execute("PRAGMA integrity_check").get == "ok"


def test_an_upload_that_takes_too_long_is_refused_also_while_it_is_built_anew(
    upload, admitted, monkeypatch, tmp_path
):
    """The time is that of the whole upload, not of each of its parts."""
    path = upload("CREATE TABLE mine (x)")
    monkeypatch.setattr(untrusted, "_STEPS_BETWEEN_LOOKS", 1)
    seen = []

    def is_over(self):
        seen.append(self)
        return len(seen) > 1_000

    monkeypatch.setattr(untrusted.Deadline, "is_over", is_over)
    with pytest.raises(InvalidDatabase):
        admitted(path)
    assert len(set(map(id, seen))) == 1
    assert [left.name for left in tmp_path.iterdir()] == ["upload.anki2"]


REFUSED = {
    "a view in place of notes": ["ALTER TABLE notes RENAME TO n2; CREATE VIEW notes AS SELECT * FROM n2"],
    "a virtual table in place of notes": [
        "DROP TABLE notes; CREATE VIRTUAL TABLE notes USING fts5(id, guid)"
    ],
    "no cards": ["DROP TABLE cards"],
    "no col": ["DROP TABLE col"],
    "no decks": ["DROP TABLE decks"],
    "a column less": ["DROP INDEX ix_cards_usn; ALTER TABLE cards DROP COLUMN usn"],
    "a computed column": ["ALTER TABLE cards ADD COLUMN c AS (abs(id))"],
    "an empty col": ["DELETE FROM col"],
    "two rows in col": [
        "INSERT INTO col SELECT 2, crt, mod, scm, ver, dty, usn, ls, '', '', '', '', '' FROM col"
    ],
    "schema 10": ["UPDATE col SET ver = 10"],
    "schema 12": ["UPDATE col SET ver = 12"],
    "schema 13": ["UPDATE col SET ver = 13"],
    "schema 19": ["UPDATE col SET ver = 19"],
    "a schema that is a text": ["UPDATE col SET ver = 'x'"],
    "a schema that is a fraction": ["UPDATE col SET ver = 18.5"],
    "schema 11 without its JSON": ["UPDATE col SET ver = 11"],
    "a negative USN": ["UPDATE col SET usn = -1"],
    "the highest USN": ["UPDATE col SET usn = 2147483647"],
    "a USN beyond 31 bits": ["UPDATE col SET usn = 4294967296"],
    "a time that is a text": ["UPDATE col SET mod = 'x'"],
    "a text among integers": ["UPDATE cards SET did = 'x'"],
    "a blob among texts": ["UPDATE notes SET flds = x'00'"],
    "a text among blobs": ["UPDATE decks SET common = 'x'"],
    "text that is no UTF-8": ["UPDATE notes SET flds = CAST(x'61ff62' AS text)"],
    "a deck's protobuf": ["UPDATE decks SET common = x'ff'"],
    "a deck's kind": ["UPDATE decks SET kind = x''"],
    "deck options' protobuf": ["UPDATE deck_config SET config = x'ff'"],
    "a notetype's protobuf": ["UPDATE notetypes SET config = x'ff'"],
    "a field's protobuf": ["UPDATE fields SET config = x'ff'"],
    "a template's protobuf": ["UPDATE templates SET config = x'ff'"],
    "config that is no JSON": ["UPDATE config SET val = x'7b'"],
    "config of a number that is none": ["UPDATE config SET val = CAST('1e999' AS blob)"],
    "config nested too deeply": [f"UPDATE config SET val = CAST('{'[' * 125}{']' * 125}' AS blob)"],
    "config nested without end": [f"UPDATE config SET val = CAST('{'[' * 99_999}' AS blob)"],
    "a grave of unknown kind": ["UPDATE graves SET type = 9 WHERE oid = 2"],
}


def test_config_of_as_many_levels_as_clients_can_read_is_taken(upload, admitted, exercise):
    value = "[" * 124 + "]" * 124
    exercise(admitted(upload(f"UPDATE config SET val = CAST('{value}' AS blob) WHERE key = 'nested'")))


@pytest.mark.parametrize("statements", REFUSED.values(), ids=REFUSED.keys())
def test_what_would_fail_later_is_refused(upload, admitted, statements):
    path = upload(*statements)
    with pytest.raises(InvalidDatabase):
        admitted(path)


@pytest.mark.parametrize("statements", [[], ["CREATE TABLE mine (x)"]], ids=["as it is", "built anew"])
@pytest.mark.parametrize("name", [b"Animal::Dog", b"Spoken", b"reversed card", b"nested"])
def test_a_name_that_is_no_utf8_is_refused(upload, admitted, name, statements):
    path = upload(*statements)
    content = path.read_bytes()
    assert name in content
    path.write_bytes(content.replace(name, name[:-1] + b"\xff"))
    with pytest.raises(InvalidDatabase):
        admitted(path)


@pytest.mark.parametrize("tag", ["NULL", "'animal'", "x'00'"])
def test_a_tag_that_cannot_be_in_the_list_is_refused(upload, admitted, tag):
    with pytest.raises(InvalidDatabase):
        admitted(
            upload(
                "CREATE TABLE others AS SELECT * FROM tags",
                "DROP TABLE tags",
                "ALTER TABLE others RENAME TO tags",
                f"INSERT INTO tags VALUES ({tag}, 0, 0, NULL)",
            )
        )


def test_a_file_that_is_refused_leaves_nothing_behind(upload, admitted, tmp_path):
    with pytest.raises(InvalidDatabase):
        admitted(upload("UPDATE col SET usn = -1", "CREATE TABLE mine (x)"))
    assert [path.name for path in tmp_path.iterdir()] == ["upload.anki2"]


NO_DATABASES = {
    "nothing": b"",
    "one byte": b"S",
    "magic": b"SQLite format 3\x00",
    "zeros": bytes(8192),
    "random": random.Random(1).randbytes(20_000),
    "magic and random": b"SQLite format 3\x00" + random.Random(2).randbytes(20_000),
    "text": b"Your upload " * 1000,
}


@pytest.mark.parametrize("content", NO_DATABASES.values(), ids=NO_DATABASES.keys())
def test_what_is_no_database_is_refused(tmp_path, admitted, content):
    path = tmp_path / "upload.anki2"
    path.write_bytes(content)
    with pytest.raises(InvalidDatabase):
        admitted(path)


def test_an_empty_database_is_refused(tmp_path, admitted):
    path = tmp_path / "upload.anki2"
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE x (y); DROP TABLE x")
    db.close()
    with pytest.raises(InvalidDatabase):
        admitted(path)


@pytest.mark.parametrize("part", [0.99, 0.5, 0.1])
def test_a_file_that_was_cut_short_is_refused(upload, admitted, part):
    path = upload()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(InvalidDatabase):
        admitted(path)


@pytest.mark.parametrize("page_count", [2**31 - 1, 2**32 - 1])
def test_a_header_that_tells_of_more_pages_is_refused(upload, admitted, page_count):
    path = upload()
    content = bytearray(path.read_bytes())
    content[28:32] = page_count.to_bytes(4)
    path.write_bytes(content)
    with pytest.raises(InvalidDatabase):
        admitted(path)


SCHEMA_TRICKS = {
    "one table twice": "INSERT INTO sqlite_schema SELECT * FROM sqlite_schema WHERE name = 'cards'",
    "two tables on one page": "UPDATE sqlite_schema SET rootpage = "
    "(SELECT rootpage FROM sqlite_schema WHERE name = 'cards') WHERE name = 'revlog'",
    "an index on a table's page": "UPDATE sqlite_schema SET rootpage = "
    "(SELECT rootpage FROM sqlite_schema WHERE name = 'cards') WHERE name = 'ix_cards_usn'",
    "a page beyond the file": "UPDATE sqlite_schema SET rootpage = 99999 WHERE name = 'cards'",
    "the first page": "UPDATE sqlite_schema SET rootpage = 1 WHERE name = 'cards'",
    "no statement": "UPDATE sqlite_schema SET sql = NULL WHERE name = 'cards'",
    "nonsense": "UPDATE sqlite_schema SET sql = 'CREATE TABLE cards (' WHERE name = 'cards'",
    "another collation": "UPDATE sqlite_schema SET sql = replace(sql, 'unicase', 'x') WHERE name = 'decks'",
}


@pytest.mark.parametrize("statement", SCHEMA_TRICKS.values(), ids=SCHEMA_TRICKS.keys())
def test_a_schema_that_lies_is_refused(upload, admitted, connect, statement):
    path = upload()
    with connect(path) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute(statement)
    with pytest.raises(InvalidDatabase):
        admitted(path)


def test_constraints_of_a_stranger_are_never_run(upload, admitted, connect, contents, assert_sound):
    path = upload()
    before = contents(path)
    with connect(path) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'data text NOT NULL', 'data text NOT NULL CHECK "
            "(length(printf(''%.*c'', 999999999, ''x'')) < 5)') WHERE name = 'cards'"
        )
    into = admitted(path)
    assert_sound(into)
    assert contents(into) == before


def test_rows_that_an_index_lacks_are_noticed(upload, admitted, connect):
    path = upload()
    rename = "UPDATE sqlite_schema SET sql = 'CREATE INDEX ix_cards_usn ON cards ({})' WHERE name = '{}'"
    with connect(path) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute(rename.format("nid", "ix_cards_usn"))
    with connect(path) as db:
        db.execute("INSERT INTO cards SELECT 5, 6, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ''")
        db.execute("PRAGMA writable_schema = ON")
        db.execute(rename.format("usn", "ix_cards_usn"))
    with pytest.raises(InvalidDatabase):
        admitted(path)


def to_schema_14(db):
    """Move three of the JSON columns of schema 11 into tables."""
    for table in ddl.tables(14):
        if table.name in {"deck_config", "config", "tags"}:
            db.execute(table.sql)
    tags, conf, dconf = (json.loads(text) for text in db.execute("SELECT tags, conf, dconf FROM col").get)
    db.executemany("INSERT INTO tags VALUES (?, ?)", tags.items())
    db.executemany(
        "INSERT INTO config VALUES (?, 0, 0, ?)",
        [(key, json.dumps(val).encode()) for key, val in conf.items()],
    )
    db.executemany(
        "INSERT INTO deck_config VALUES (?, ?, ?, ?, ?)",
        [(c["id"], c["name"], c["mod"], c["usn"], json.dumps(c).encode()) for c in dconf.values()],
    )
    db.execute("UPDATE col SET ver = 14, tags = '', conf = '', dconf = ''")


def in_schema(base_file, path, version, connect):
    """The base collection in an older schema: by the engine for 11, by its later steps undone for others."""
    if version < 15:
        shutil.copy(base_file, path)
        downgrade(path)
        if version == 14:
            with connect(path) as db:
                to_schema_14(db)
        return path
    with connect(base_file) as source, create(path, version, Deadline()) as target:
        for table in ddl.tables(version):
            rows = source.execute(f"SELECT {', '.join(table.columns)} FROM {table.name}").fetchall()
            marks = ", ".join("?" * len(table.columns))
            target.executemany(f"INSERT INTO {table.name} VALUES ({marks})", rows)
        target.execute("UPDATE col SET ver = ?", (version,))
    return path


@pytest.mark.parametrize("version", [11, 14, 15, 16, 17])
@pytest.mark.parametrize(
    "statement",
    ["SELECT 1", "UPDATE cards SET factor = 1300 + id % 900", "INSERT INTO graves SELECT 9, 3, 2"],
)
def test_older_schemas_are_upgraded_as_the_engine_does(
    base_file, tmp_path, admitted, connect, version, statement, contents, assert_sound, exercise
):
    path = in_schema(base_file, tmp_path / "old.anki2", version, connect)
    with connect(path) as db:
        if version == 11:
            db.execute(
                "UPDATE col SET dconf = replace(dconf, '\"initialFactor\":2500', '\"initialFactor\":1300')"
            )
        db.execute(statement)
    engines = tmp_path / "engines.anki2"
    shutil.copy(path, engines)
    backend = RustBackend(langs=["en"], server=True)
    backend.open_collection(collection_path=str(engines), media_folder_path="", media_db_path="")
    backend.close_collection(downgrade_to_schema11=False)
    into = admitted(path)
    assert_sound(into)
    found, expected = contents(into), contents(engines)
    for table in expected:
        assert found[table] == expected[table], table
    exercise(into)


def test_an_upload_is_admitted_in_a_worker_of_gevent(upload, tmp_path, codec):
    program = """
import gevent.monkey; gevent.monkey.patch_all()
import gevent, pathlib, sys
from storage.collection.upload.admit import admit
from storage.collection.engine.codec import Codec
codec = Codec()
ticks = []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.001)
gevent.spawn(tick)
for number in range(3):
    path = pathlib.Path(sys.argv[1])
    copy = path.with_name(f"copy{number}")
    copy.write_bytes(path.read_bytes())
    stamps = gevent.get_hub().threadpool.apply(admit, (copy, path.with_name(f"into{number}"), codec))
    codec.strip_html(["<b>x</b>"])
print(stamps["cards"], len(ticks) > 3)
"""
    path = upload()
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("12 True\n", "")


CARD_RANGES = [(-(2**63), MAX)] * 3 + [(0, 2**16 - 1), (-(2**63), MAX), (10, 10), (0, 3), (-3, 4)]
CARD_RANGES += [(-(2**31), 2**31 - 1), (0, 2**32 - 1), (0, 2**16 - 1), *[(0, 2**32 - 1)] * 3]
CARD_RANGES += [(-(2**31), 2**31 - 1), (-(2**63), MAX), (0, 255)]
REVLOG_RANGES = [(-(2**63), MAX), (-(2**63), MAX), (10, 10), (0, 255), *[(-(2**31), 2**31 - 1)] * 2]
REVLOG_RANGES += [(0, 2**32 - 1), (0, 2**32 - 1), (0, 5)]


def test_whatever_a_normal_sync_brings_comes_in_by_an_upload_unchanged(ours, admitted, contents, connect):
    """Rows at both ends of what the messages hold; see `app.sync.messages`."""
    ends = (0, 1)
    cards = [[*(pair[end] for pair in CARD_RANGES), '{"cd":"\\u00e9"}'] for end in ends]
    reviews = [[pair[end] for pair in REVLOG_RANGES] for end in ends]
    notetype = ours.rows("SELECT mid FROM notes LIMIT 1")[0][0]
    notes = [
        [row_id, "\U0010ffff", notetype, row_id, 10, "a é", "\u2028\x1f", "", "", 0, ""]
        for row_id in (-(2**63), MAX)
    ]
    ours.merge.apply_chunk(Chunk(revlog=reviews, cards=cards, notes=notes), 5)
    ours.db.execute("COMMIT")
    ours.db.close()
    with connect(ours.path) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("VACUUM")
    before = contents(ours.path)
    assert contents(admitted(ours.path)) == before
