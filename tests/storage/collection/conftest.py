"""Collections to test on, and the official server as the referee of what merging means."""

from __future__ import annotations

import json
import shutil
import time

import apsw
import msgspec
import pytest
from anki.collection import Collection as AnkiCollection
from anki.deck_config_pb2 import DeckConfig
from anki.decks_pb2 import Deck
from anki.notetypes_pb2 import Notetype

from storage.collection.collection import Collection
from storage.collection.engine.codec import Codec
from storage.collection.engine.empty import create_empty
from storage.collection.records import Changes, Chunk, ChunkPosition, Graves
from storage.collection.schema import configure
from storage.collection.stamps import read_stamps
from storage.collection.unseen import Unseen
from tests.support.wire import Wire

SERVER_USN = 10


@pytest.fixture(scope="session")
def codec():
    return Codec()


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("empty") / "empty.anki2"
    create_empty(path)
    return path


@pytest.fixture(scope="session")
def base_file(tmp_path_factory):
    """A collection with some of everything, half of it unseen by a client at USN 5."""
    path = tmp_path_factory.mktemp("base") / "base.anki2"
    collection = AnkiCollection(str(path), server=True)
    for name in ("Spoken", "Spoken::Rare", "Écrit", "zz"):
        collection.decks.id(name)
    for notetype_name, count in (("Basic", 6), ("Basic (and reversed card)", 3)):
        notetype = collection.models.by_name(notetype_name)
        for number in range(count):
            note = collection.new_note(notetype)
            note["Front"], note["Back"] = f"<b>{notetype_name}</b> {number}", f"{number}"
            note.tags = ["Animal", "Animal::Dog", f"n{number}"]
            collection.add_note(note, collection.decks.id("Spoken"))
    collection.decks.new_filtered("Cram")
    collection.set_config("nested", {"a": [1, 2.5, None, True], "é": "ü"})
    collection.close()
    with Connect(path) as db:
        for number in range(1, 8):
            db.execute(
                "INSERT INTO revlog VALUES (?, 1, ?, 3, 4, -60, 2500, 7000, 1)", (number * 1000, number)
            )
            db.execute("INSERT INTO graves VALUES (?, ?, ?)", (number, number % 3, number + 1))
        for table in ("cards", "notes", "decks", "notetypes", "deck_config", "tags"):
            key = "tag" if table == "tags" else "id"
            rows = db.execute(f"SELECT {key} FROM {table} ORDER BY 1").fetchall()
            for at, row in enumerate(rows):
                db.execute(f"UPDATE {table} SET usn = ? WHERE {key} = ?", (3 if at % 2 else 7, *row))
        db.execute("UPDATE notes SET mod = 1000; UPDATE cards SET mod = 1000")
        db.execute("UPDATE decks SET mtime_secs = 1000; UPDATE notetypes SET mtime_secs = 1000")
        db.execute("UPDATE deck_config SET mtime_secs = 1000; UPDATE col SET usn = ?", (SERVER_USN,))
    return path


class Connect:
    def __init__(self, path):
        self.connection = apsw.Connection(str(path))
        configure(self.connection)

    def __enter__(self):
        return self.connection

    def __exit__(self, *_):
        self.connection.close()


@pytest.fixture
def connect():
    """`with connect(path) as db`: a connection that knows Anki's collation."""
    return Connect


@pytest.fixture
def ids_of():
    """`ids_of(path, table)`: the ids in a table."""

    def find(path, table, where="1"):
        with Connect(path) as db:
            return [row[0] for row in db.execute(f"SELECT id FROM {table} WHERE {where} ORDER BY id")]

    return find


class Opened:
    """Our collection with an open transaction."""

    def __init__(self, path, codec):
        self.path = path
        self.db = apsw.Connection(str(path))
        configure(self.db)
        self.stamps_before = read_stamps(self.db)
        self.db.execute("BEGIN IMMEDIATE")
        self.merge = Collection(self.db, codec, self.stamps_before)
        self._codec = codec

    def unseen(self, min_usn, *, deleted=None, now_s=0):
        """What a client at this USN is sent."""
        return Unseen(self.db, self._codec, min_usn, deleted or Graves(), now_s)

    def rows(self, sql, *bindings):
        return self.db.execute(sql, bindings).fetchall()


@pytest.fixture
def open_copy(tmp_path, codec):
    """`open_copy(file, *sql)`: a copy of a file, changed by SQL, opened as ours."""
    opened = []

    def open_(path, *sql):
        copy = tmp_path / f"copy{len(opened)}.anki2"
        shutil.copy(path, copy)
        with Connect(copy) as db:
            for statement in sql:
                db.execute(statement)
        opened.append(Opened(copy, codec))
        return opened[-1]

    yield open_
    for ours in opened:
        ours.db.close()


@pytest.fixture
def ours(open_copy, base_file):
    return open_copy(base_file)


class Refused(Exception):
    """The referee answered with an error status."""


class Referee:
    """A user of the official server. Raises: Refused."""

    def __init__(self, server):
        user = server.next_user()
        self.wire = Wire(server.port, skey="session")
        self.wire.login(user.name, user.password)

    def post(self, method, payload):
        answer = self.wire.call(method, payload)
        if not answer.ok:
            raise Refused(f"{method}: {answer.status} {answer.body!r}")
        return answer.body

    def ask(self, method, payload):
        return json.loads(self.post(method, payload))


@pytest.fixture(scope="session")
def referee(official_server):
    found = Referee(official_server)
    yield found
    found.wire.connection.close()


class Session(msgspec.Struct):
    """What a client sends in one sync."""

    min_usn: int = 5
    lnewer: bool = True
    graves: dict = msgspec.field(default_factory=lambda: {"cards": [], "notes": [], "decks": []})
    models: list = []
    decks: list = []
    configs: list = []
    tags: list = []
    conf: dict | None = None
    crt: int | None = None
    chunks: list = []


class Outcome(msgspec.Struct):
    """What the sync answered, and the tables after it."""

    graves: object
    changes: object
    rows: object
    tables: object


class Duel:
    """One sync against the official server and against ours, from the same file."""

    def __init__(self, referee, open_copy, tmp_path, codec):
        self._referee, self._open_copy, self._folder, self._codec = referee, open_copy, tmp_path, codec

    def official(self, path, session):
        referee = self._referee
        assert referee.post("upload", path.read_bytes()) == b"OK"
        graves = referee.ask("start", {"minUsn": session.min_usn, "lnewer": session.lnewer})
        referee.ask("applyGraves", {"chunk": session.graves})
        changes = {"models": session.models, "decks": [session.decks, session.configs], "tags": session.tags}
        changes |= {} if session.conf is None else {"conf": session.conf}
        changes |= {} if session.crt is None else {"crt": session.crt}
        changes = referee.ask("applyChanges", {"changes": changes})
        rows = {"revlog": [], "cards": [], "notes": []}
        while True:
            chunk = referee.ask("chunk", {})
            for kind in rows:
                rows[kind] += chunk.get(kind, [])
            if chunk["done"]:
                break
        for chunk in session.chunks:
            referee.ask("applyChunk", {"chunk": chunk})
        referee.ask("finish", {})
        downloaded = self._folder / "official.anki2"
        downloaded.write_bytes(referee.post("download", {}))
        outcome = Outcome(
            {kind: sorted(ids) for kind, ids in graves.items()},
            _changes_by_id(
                changes["models"], *changes["decks"], changes["tags"], changes.get("conf"), changes.get("crt")
            ),
            {kind: sorted(found) for kind, found in rows.items()},
            tables(downloaded),
        )
        downloaded.unlink()
        return outcome

    def ours(self, path, session):
        opened = self._open_copy(path)
        merge, usn, now_s = opened.merge, opened.merge.usn, int(time.time())
        deleted = Graves(**session.graves)
        unseen = opened.unseen(session.min_usn, deleted=deleted, now_s=now_s)
        graves, changes = unseen.graves(), unseen.changes(with_config=not session.lnewer)
        rows = unseen.read_chunk(unseen.chunk_ids(ChunkPosition(), 10**6))
        merge.unbury(merge.plan_unburying(now_s), now_s)
        merge.apply_graves(deleted, usn)
        merge.apply_changes(
            Changes(session.models, session.decks, session.configs, session.tags, session.conf, session.crt),
            usn,
            now_s,
            sent_config=not session.lnewer,
        )
        for chunk in session.chunks:
            merge.apply_chunk(Chunk(**chunk), session.min_usn)
        carried = merge.counts()
        assert carried == merge.recount()
        assert merge.has_unsynced() == any(
            opened.rows(f"SELECT 1 FROM {table} WHERE usn = -1")
            for table in ("cards", "notes", "revlog", "graves", "decks", "deck_config", "tags", "notetypes")
        )
        merge.finish(now_s * 1000)
        stamps = merge.stamps()
        opened.db.execute("COMMIT")
        real = read_stamps(opened.db)
        # Both are upper bounds: a row may have been overwritten since.
        assert stamps["newest"] >= real["newest"]
        bounds = {"unsynced": False, "newest": 0}
        assert stamps | bounds == real | bounds
        return Outcome(
            {kind: sorted(getattr(graves, kind)) for kind in ("cards", "notes", "decks")},
            _changes_by_id(
                changes.models, changes.decks, changes.configs, changes.tags, changes.conf, changes.crt
            ),
            {kind: sorted(map(list, getattr(rows, kind))) for kind in ("revlog", "cards", "notes")},
            tables(opened.path),
        )


def _changes_by_id(models, decks, configs, tags, conf, crt):
    return {
        "models": {model["id"]: model for model in models},
        "decks": {deck["id"]: deck for deck in decks},
        "configs": {config["id"]: config for config in configs},
        "tags": sorted(tags),
        "conf": conf,
        "crt": crt,
    }


@pytest.fixture
def duel(referee, open_copy, tmp_path, codec):
    return Duel(referee, open_copy, tmp_path, codec)


@pytest.fixture
def session():
    return Session


@pytest.fixture
def refused():
    return Refused


_MESSAGES = {
    ("notetypes", "config"): Notetype.Config,
    ("fields", "config"): Notetype.Field.Config,
    ("templates", "config"): Notetype.Template.Config,
    ("decks", "common"): Deck.Common,
    ("decks", "kind"): Deck.KindContainer,
    ("deck_config", "config"): DeckConfig.Config,
}


def tables(path):
    """Every row of every table, by table; times of this test and the order of JSON's keys do not count."""
    found = {}
    with Connect(path) as db:
        for table in ("col", "notes", "cards", "revlog", "graves", "deck_config", "config", "tags"):
            found[table] = _rows(db, table)
        for table in ("fields", "templates", "notetypes", "decks"):
            found[table] = _rows(db, table)
    for row in found["col"]:
        del row["usn"], row["mod"], row["ls"]
    return found


def _rows(db, table):
    cursor = db.execute(f"SELECT * FROM {table} ORDER BY 1, 2")
    names = None
    rows = []
    for row in cursor:
        names = names or [name for name, *_ in cursor.get_description()]
        rows.append({name: _comparable(table, name, value) for name, value in zip(names, row, strict=True)})
    return rows


def _comparable(table, name, value):
    if name == "mtime_secs" and value > 1_700_000_000:
        return "now"
    if (table, name) == ("config", "val"):
        return json.loads(value)
    message_type = _MESSAGES.get((table, name))
    if message_type is None:
        return value
    message = message_type.FromString(value)
    other = getattr(message, "other", b"")
    if other:
        message.ClearField("other")
    return repr(message), json.loads(other) if other else None
