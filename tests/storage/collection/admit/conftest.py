"""Uploads of all kinds, and what must hold once they are in."""

from __future__ import annotations

import shutil
import time

import apsw
import pytest

from storage.collection.collection import Collection
from storage.collection.records import Chunk, ChunkPosition, Graves
from storage.collection.schema import configure
from storage.collection.stamps import read_stamps
from storage.collection.unseen import Unseen
from storage.collection.upload import ddl
from storage.collection.upload.admit import admit


@pytest.fixture
def upload(base_file, tmp_path, connect):
    """`upload(*sql, page=...)`: the base collection, changed by SQL as a client could have, vacuumed."""

    def make(*statements, pragmas=(), vacuum=True, name="upload.anki2"):
        path = tmp_path / name
        shutil.copy(base_file, path)
        with connect(path) as db:
            db.execute("PRAGMA journal_mode = DELETE")
            for statement in statements:
                db.execute(statement)
            for pragma in pragmas:
                db.execute(f"PRAGMA {pragma}")
            if vacuum:
                db.execute("VACUUM")
        return path

    return make


@pytest.fixture
def admitted(tmp_path, codec):
    """`admitted(path)`: where the collection came to lie."""

    def admit_(path):
        into = tmp_path / "admitted.anki2"
        into.unlink(missing_ok=True)
        admit(path, into, codec)
        return into

    return admit_


def _contents(path):
    """All rows of Anki's tables, whatever the file looks like."""
    db = apsw.Connection(str(path))
    configure(db)
    db.execute("PRAGMA writable_schema = ON")
    try:
        return {
            table.name: sorted(db.execute(f"SELECT {', '.join(table.columns)} FROM {table.name}"), key=repr)
            for table in ddl.tables(ddl.LATEST)
        }
    finally:
        db.close()


def _assert_sound(path):
    db = apsw.Connection(str(path))
    configure(db)
    assert db.execute("PRAGMA integrity_check").get == "ok"
    assert ddl.is_latest(db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall())
    assert db.execute("PRAGMA page_size").get == 4096
    assert db.execute("PRAGMA freelist_count").get == 0
    assert db.execute("PRAGMA encoding").get == "UTF-8"
    db.close()
    assert path.read_bytes()[18:20] == b"\x02\x02"
    assert not path.with_name(path.name + "-wal").exists()


def _exercise(path, codec):
    """Everything that a later request may do with a collection."""
    db = apsw.Connection(str(path))
    configure(db)
    db.execute("BEGIN IMMEDIATE")
    merge = Collection(db, codec, read_stamps(db))
    usn, now_s = merge.usn, int(time.time())
    merge.unbury(merge.plan_unburying(now_s), now_s)
    unseen = Unseen(db, codec, -2, Graves(), now_s)
    unseen.graves()
    changes = unseen.changes(with_config=True)
    for at, group in enumerate((changes.models, changes.decks, changes.configs)):
        for thing in group:
            thing["mod"] = 2**40 + at
    merge.apply_changes(changes, usn, now_s)
    ids = unseen.chunk_ids(ChunkPosition(), 10**6)
    chunk = unseen.read_chunk(ids)
    known = {model["id"]: len(model["flds"]) for model in changes.models}
    fitting = [row for row in chunk.notes if row[6].count("\x1f") + 1 == known.get(row[2])]
    merge.apply_chunk(Chunk(chunk.revlog, chunk.cards, fitting), 2**30)
    merge.apply_graves(Graves(ids.cards, ids.notes, [deck["id"] for deck in changes.decks]), usn)
    assert merge.counts() == merge.recount()
    merge.has_unsynced()
    merge.finish(now_s * 1000)
    db.execute("COMMIT")
    assert db.execute("PRAGMA integrity_check").get == "ok"
    db.close()


@pytest.fixture
def contents():
    """`contents(path)`: all rows of Anki's tables, whatever the file looks like."""
    return _contents


@pytest.fixture
def assert_sound():
    """`assert_sound(path)`: a file as we keep them."""
    return _assert_sound


@pytest.fixture
def exercise(codec):
    """`exercise(path)`: everything that a later request may do with a collection."""
    return lambda path: _exercise(path, codec)
