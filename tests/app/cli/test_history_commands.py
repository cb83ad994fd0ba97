"""`ankisyncctl history`: what is listed, what an export holds, and what a restore does to whom."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.auth.local.environment import environment_id
from app.config import Settings
from app.history import Restorer
from app.main import Stores, build_collections, build_gate, build_restorer, now_ms
from storage.collection.schema import compare_unicase
from storage.collection.stamps import read_stamps
from storage.errors import SessionLost, Unavailable
from storage.media.blobs import key_of
from storage.media.index import MediaIndex
from storage.types import DatabaseId, DatabaseKind, UserId, run_inline
from tests.app.cli.test_store_commands import Admin
from tests.support.databases import entry, new_session
from tests.support.past import change_media, content_of, make_collection

ALICE = UserId(environment_id("alice"))
COLLECTION, MEDIA = DatabaseId(ALICE, DatabaseKind.COLLECTION), DatabaseId(ALICE, DatabaseKind.MEDIA)
HISTORY_MS = 30 * 24 * 3600 * 1000


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Three versions of alice's collection: empty, two notes, another one; and three of her media."""
    folder = tmp_path_factory.mktemp("prepared")
    admin = Admin(folder)
    with admin.stores() as stores:
        collections = build_collections(Settings.from_env(admin.env), stores, offload=run_inline)
        for number, words in enumerate(([], ["one", "two"], ["three"])):
            assert collections.upload(ALICE, make_collection(folder / f"{number}.anki2", words)) == "OK"
        for changes in (
            {"gone.txt": b"gone", "kept.txt": b"kept", "replaced.txt": b"v1"},
            {"gone.txt": None, "replaced.txt": b"v2"},
            {"later.txt": b"later"},
        ):
            change_media(stores, ALICE, folder, changes)
    return admin.root


@pytest.fixture
def admin(tmp_path, prepared) -> Admin:
    admin = Admin(tmp_path)
    shutil.copytree(prepared, admin.root)
    return admin


@contextlib.contextmanager
def restorer_of(admin: Admin, history_ms: int = HISTORY_MS) -> Iterator[Restorer]:
    with admin.stores() as stores:
        yield dataclasses.replace(of_stores(stores), history_ms=history_ms)


def of_stores(stores: Stores) -> Restorer:
    return build_restorer(stores, build_gate(stores, offload=run_inline), offload=run_inline)


def newest(admin: Admin, database: DatabaseId) -> tuple[int, set[str]]:
    with admin.stores() as stores:
        return stores.databases.head(database).version, content_of(stores, database)


def blob(content: bytes) -> str:
    return key_of(hashlib.sha256(content).digest())


def test_every_version_is_listed_with_its_time_and_size(admin):
    rows = admin.json("history", "list", "alice")
    assert [(row["version"], row["state"]) for row in rows] == [(1, "kept"), (2, "kept"), (3, "current")]
    times = [row["committed_ms"] for row in rows]
    assert times == sorted(times)
    assert abs(times[-1] - now_ms()) < 600_000
    assert all(row["file_bytes"] % 4096 == 0 and row["file_bytes"] > row["stored_bytes"] > 0 for row in rows)
    assert len(admin.json("history", "list", "alice", "media")) == 3
    assert admin.json("history", "list", "bob") == []


def test_a_restored_version_is_the_newest_and_the_others_stay(admin):
    result = admin.run("history", "restore", "alice", "2", "--yes")
    assert "Version 4 is now what version 2 was: 2 notes, 2 cards." in result.stdout
    assert newest(admin, COLLECTION) == (4, {"one", "two"})
    assert [row["version"] for row in admin.json("history", "list", "alice")] == [1, 2, 3, 4]
    admin.run("history", "restore", "alice", "3", "--yes")
    assert newest(admin, COLLECTION) == (5, {"three"})
    assert all(row["fault"] is None for row in admin.json("doctor"))


def test_every_device_sees_another_schema_and_a_later_change(admin):
    with admin.stores() as stores:
        before = stores.databases.head(COLLECTION).stamps
    admin.run("history", "restore", "alice", "2", "--yes")
    with admin.stores() as stores:
        head = stores.databases.head(COLLECTION)
        checkout = stores.databases.checkout(COLLECTION, head)
        assert read_stamps(checkout.connection) == head.stamps
        stores.databases.discard(checkout)
    assert head.stamps["mod"] == head.stamps["scm"] > max(before["mod"], before["scm"])
    assert head.stamps["usn"] > before["usn"]


def test_times_grow_even_where_the_clock_is_behind(admin):
    with admin.stores() as stores:
        before = stores.databases.head(COLLECTION).stamps
        slow = dataclasses.replace(of_stores(stores), clock_ms=lambda: 1000)
        after = slow.restore_collection(ALICE, 2).stamps
        again = slow.restore_collection(ALICE, 3).stamps
    assert before["mod"] < after["mod"] == after["scm"] < again["mod"] == again["scm"]


def test_restore_asks_first_and_says_what_of_when(admin):
    result = admin.run("history", "restore", "alice", "2", stdin="n\n", code=1)
    assert "Bring back the collection of alice as of 20" in result.stdout
    assert newest(admin, COLLECTION) == (3, {"three"})
    admin.run("history", "restore", "alice", "2", stdin="y\n")
    assert newest(admin, COLLECTION) == (4, {"one", "two"})


def test_it_is_said_when_the_old_version_has_no_cards(admin):
    assert "only offer to upload" in admin.run("history", "restore", "alice", "1", "--yes").stderr


def test_a_running_sync_is_over_and_cannot_commit(admin):
    with admin.stores() as stores:
        stores.databases.sessions.open(COLLECTION, new_session("running"))
        admin.run("history", "restore", "alice", "2", "--yes")
        with pytest.raises(SessionLost):
            stores.databases.sessions.append(COLLECTION, "running", entry("applyChunk", b"{}"))
        assert stores.databases.head(COLLECTION).session is None
    assert newest(admin, COLLECTION) == (4, {"one", "two"})


def test_a_sync_that_begins_in_the_middle_loses_too(admin):
    """Between reading the head and updating it: the restore finds another token and starts again."""
    with restorer_of(admin) as restorer:
        heads, seen = restorer.databases._heads, []
        inner = heads.advance_head

        def advance_head(database, request):
            if not seen:
                heads.open_session(COLLECTION, new_session("late"))
            seen.append(request)
            return inner(database, request)

        heads.advance_head = advance_head
        restorer.restore_collection(ALICE, 2)
        assert len(seen) == 2
        assert heads.find(COLLECTION).session is None
    assert newest(admin, COLLECTION) == (4, {"one", "two"})


def test_a_user_who_syncs_without_end_is_left_alone(admin):
    with restorer_of(admin) as restorer:
        heads = restorer.databases._heads
        inner = heads.advance_head

        def advance_head(database, request):
            heads.open_session(COLLECTION, new_session("again"))
            return inner(database, request)

        heads.advance_head = advance_head
        with pytest.raises(Unavailable, match="again and again"):
            restorer.restore_collection(ALICE, 2)
    assert newest(admin, COLLECTION) == (3, {"three"})


def test_an_export_is_the_version_and_changes_nothing(admin, tmp_path):
    file = tmp_path / "old.anki2"
    admin.run("history", "export", "alice", "2", str(file))
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.create_collation("unicase", compare_unicase)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert {row[0] for row in connection.execute("SELECT sfld FROM notes")} == {"one", "two"}
    assert file.stat().st_mode & 0o077 == 0
    assert newest(admin, COLLECTION) == (3, {"three"})


def test_an_export_may_go_into_a_pipe(admin, tmp_path):
    admin.run("history", "export", "alice", "2", str(tmp_path / "old.anki2"))
    result = admin.run("history", "export", "alice", "2", "-")
    assert result.stdout_bytes == (tmp_path / "old.anki2").read_bytes()


@pytest.mark.parametrize("name", ["old.anki2", "missing/old.anki2"])
def test_an_export_takes_nothings_place_and_leaves_no_part(admin, tmp_path, name):
    (tmp_path / "old.anki2").write_bytes(b"mine")
    result = admin.run("history", "export", "alice", "2", str(tmp_path / name), code=1)
    assert "cannot be written" in result.stderr
    admin.run("history", "export", "alice", "77", str(tmp_path / "other.anki2"), code=1)
    assert (tmp_path / "old.anki2").read_bytes() == b"mine"
    assert {path.name for path in tmp_path.iterdir()} == {"old.anki2", "data"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["list", "zoe"], 1, "no user 'zoe'"),
        (["list", "alice", "cards"], 2, "collection"),
        (["restore", "zoe", "1", "--yes"], 1, "no user 'zoe'"),
        (["restore", "alice", "9", "--yes"], 1, "version 9 is not in the history: versions 1 to 3 are kept"),
        (["restore", "bob", "1", "--yes"], 1, "there are none"),
        (["restore", "alice", "3", "--yes"], 1, "version 3 is the current one"),
        (["restore", "alice", "3", "media", "--yes"], 1, "version 3 is the current one"),
        (["restore", "alice", "0", "--yes"], 2, "range"),
        (["restore", "alice", "2", "--exact", "--yes"], 2, "--exact is for media"),
        (["export", "alice", "4", "-"], 1, "version 4 is not in the history"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(admin, arguments, code, message):
    result = admin.run("history", *arguments, code=code)
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert newest(admin, COLLECTION) == (3, {"three"})
    assert newest(admin, MEDIA)[0] == 3


def test_deleted_and_replaced_media_come_back_under_new_usns_and_later_files_stay(admin):
    assert (
        "2 media files are back, 0 removed"
        in admin.run("history", "restore", "alice", "1", "media", "--yes").stdout
    )
    assert newest(admin, MEDIA) == (4, {"gone.txt", "kept.txt", "replaced.txt", "later.txt"})
    with admin.stores() as stores:
        rows = changes_of(stores, since_usn=6)
        assert stores.databases.head(MEDIA).stamps == {"usn": 8, "count": 4, "bytes": 15}
    v1 = hashlib.sha1(b"v1").hexdigest()
    assert rows == [("gone.txt", 7, hashlib.sha1(b"gone").hexdigest()), ("replaced.txt", 8, v1)]


def test_exact_media_also_loses_what_came_later_by_tombstones(admin):
    result = admin.run("history", "restore", "alice", "1", "media", "--exact", "--yes")
    assert "2 media files are back, 1 removed" in result.stdout
    assert newest(admin, MEDIA)[1] == {"gone.txt", "kept.txt", "replaced.txt"}
    with admin.stores() as stores:
        assert ("later.txt", 9, "") in changes_of(stores, since_usn=6)
    admin.run("history", "restore", "alice", "3", "media", "--exact", "--yes")
    assert newest(admin, MEDIA) == (5, {"kept.txt", "replaced.txt", "later.txt"})


def changes_of(stores: Stores, since_usn: int) -> list[tuple[str, int, str]]:
    checkout = stores.databases.checkout(MEDIA, stores.databases.head(MEDIA))
    rows = MediaIndex(checkout.connection).changes_since(since_usn)
    stores.databases.release(checkout)
    return rows


def test_contents_that_a_restore_replaces_are_kept_for_the_way_back(admin):
    admin.run("history", "restore", "alice", "1", "media", "--yes")
    with admin.stores() as stores:
        checkout = stores.databases.checkout(MEDIA, stores.databases.head(MEDIA))
        kept = set(MediaIndex(checkout.connection).contents_since(now_ms() // 1000 - 600))
        stores.databases.release(checkout)
    assert {hashlib.sha256(content).digest() for content in (b"v1", b"v2", b"gone", b"later")} <= kept


def test_content_that_is_swept_is_named_and_the_rest_comes_back(admin):
    with restorer_of(admin, history_ms=-HISTORY_MS) as restorer:
        restorer.blobs._objects.delete([blob(b"gone")])
        done = restorer.restore_media(ALICE, 1, exact=False)
    assert (done.back, done.removed, done.lost) == (1, 0, ("gone.txt",))
    assert newest(admin, MEDIA)[1] == {"kept.txt", "replaced.txt", "later.txt"}


def test_content_that_a_sweep_may_be_at_is_put_anew(admin):
    """What is older than the history is not named for a sweep that has begun: only youth saves it."""
    with restorer_of(admin, history_ms=-HISTORY_MS) as restorer:
        (path,) = admin.root.rglob(f"*{blob(b'gone').removeprefix('blobs/')}*")
        old_ms = make_old(path)
        restorer.restore_media(ALICE, 1, exact=False)
        assert restorer.blobs._objects.find(blob(b"gone")).modified_ms > old_ms + HISTORY_MS // 2


def test_content_within_the_history_is_not_read(admin):
    with restorer_of(admin) as restorer:
        (path,) = admin.root.rglob(f"*{blob(b'gone').removeprefix('blobs/')}*")
        old_ms = make_old(path)
        restorer.restore_media(ALICE, 1, exact=False)
        assert restorer.blobs._objects.find(blob(b"gone")).modified_ms == old_ms


def make_old(path: Path) -> int:
    old_s = now_ms() // 1000 - HISTORY_MS // 1000
    os.utime(path, (old_s, old_s))
    return old_s * 1000
