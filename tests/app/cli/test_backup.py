"""`ankisyncctl backup` on one machine: what is copied, what comes back, and what is never overwritten."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from app.auth.local.environment import environment_id
from app.backup import BackupRestorer
from app.config import Settings
from app.main import build_collections
from storage.database.format import keys
from storage.database.maintenance.mark import list_databases
from storage.objects.local import LocalObjectStore
from storage.types import DatabaseId, DatabaseKind, UserId, run_inline
from tests.app.cli.test_store_commands import Admin
from tests.support.past import change_media, content_of, make_collection

ALICE, BOB = UserId(environment_id("alice")), UserId(environment_id("bob"))
COLLECTION, MEDIA = DatabaseId(ALICE, DatabaseKind.COLLECTION), DatabaseId(ALICE, DatabaseKind.MEDIA)
BOBS = DatabaseId(BOB, DatabaseKind.COLLECTION)


def upload(admin: Admin, user: UserId, *words: str) -> None:
    with admin.stores() as stores:
        collections = build_collections(Settings.from_env(admin.env), stores, offload=run_inline)
        path = make_collection(admin.root.parent / f"{user}-{time.monotonic_ns()}.anki2", list(words))
        assert collections.upload(user, path) == "OK"


def media(admin: Admin, **changes: bytes | None) -> None:
    with admin.stores() as stores:
        change_media(stores, ALICE, admin.root.parent, {f"{k}.txt": v for k, v in changes.items()})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Two versions of alice's collection and media, one of bob's, and a user of the list, carol."""
    admin = Admin(tmp_path_factory.mktemp("prepared"))
    upload(admin, ALICE, "one")
    upload(admin, ALICE, "one", "two")
    upload(admin, BOB, "bob's")
    media(admin, a=b"a", b=b"b")
    media(admin, b=None, c=b"c")
    admin.run("user", "add", "carol", "--password-stdin", stdin="secret\n")
    return admin.root


@pytest.fixture
def admin(tmp_path, prepared) -> Admin:
    admin = Admin(tmp_path)
    shutil.copytree(prepared, admin.root)
    return admin


@pytest.fixture
def other(tmp_path) -> Admin:
    """A server with nothing in it."""
    return Admin(tmp_path / "other")


def everything(admin: Admin) -> dict:
    """Versions with their content, of every database."""
    with admin.stores() as stores:
        found = {}
        for database in list_databases(stores.heads):
            head = stores.heads.find(database)
            points = [point.version for point in stores.databases.history(database)]
            content = [content_of(stores, database, version) for version in points]
            found[database] = (head.version, head.checksum, head.stamps, head.chain, points, content)
        return found


def files(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["folder", "archive.tar"])
def test_what_is_restored_elsewhere_is_the_same_with_history_users_and_media(admin, other, tmp_path, name):
    target = str(tmp_path / name)
    assert "2 users" in admin.run("backup", "create", target).stdout
    other.run("backup", "restore", target)
    assert everything(other) == everything(admin)
    assert [row["name"] for row in other.json("user", "list")] == ["alice", "bob", "carol"]
    other.run("doctor", "--read-media")
    upload(other, ALICE, "and", "on")
    media(other, d=b"d")
    other.run("doctor")
    with other.stores() as stores:
        assert stores.maintenance.run(is_full=True).failed == 0


def test_a_second_backup_copies_only_what_is_new(admin, other, tmp_path):
    target = tmp_path / "folder"
    admin.run("backup", "create", str(target))
    before = files(target)
    media(admin, d=b"d")
    admin.run("backup", "create", str(target))
    after = files(target)
    assert {path: after.get(path) for path in before} == before
    added = [Path(path).relative_to(target / "objects") for path in after.keys() - before.keys()]
    assert {path.parts[0] for path in added} == {"backup-parts", "backups", "blobs", "v1"}
    assert not [path for path in added if BOB in path.parts or "collection" in path.parts]
    rows = admin.json("backup", "list", str(target))
    assert [(row["users"], row["of"], row["fault"]) for row in rows] == [(2, "all", None)] * 2
    other.run("backup", "restore", str(target), "--backup", rows[0]["backup"])
    with other.stores() as stores:
        assert content_of(stores, MEDIA) == {"a.txt", "c.txt"}


def test_older_backups_are_removed_with_what_they_alone_name(admin, other, tmp_path):
    target = tmp_path / "folder"
    for number in range(4):
        upload(admin, BOB, f"version {number}")
        admin.run("backup", "create", str(target))
    media(admin, a=None)
    long_ago = time.time() - 2 * 24 * 3600
    for path in target.rglob("*"):
        os.utime(path, (long_ago, long_ago))
    (target / "objects" / "blobs" / ("0" * 64)).write_bytes(b"left by a backup that was broken off")
    os.utime(target / "objects" / "blobs" / ("0" * 64), (long_ago, long_ago))
    count = len(files(target))
    admin.run("backup", "create", str(target), "--keep", "1")
    assert len(admin.json("backup", "list", str(target))) == 1
    assert len(files(target)) < count - 3
    assert not (target / "objects" / "blobs" / ("0" * 64)).exists()
    other.run("backup", "restore", str(target))
    assert everything(other) == everything(admin)


def test_one_user(admin, other, tmp_path):
    target = str(tmp_path / "bobs.tar")
    admin.run("backup", "create", target, "--user", "bob")
    other.run("backup", "restore", target)
    assert everything(other).keys() == {BOBS}
    whole = str(tmp_path / "whole")
    admin.run("backup", "create", whole)
    third = Admin(tmp_path / "third")
    third.run("backup", "restore", whole, "--user", "alice")
    assert everything(third).keys() == {COLLECTION, MEDIA}
    assert "not in the backup" in third.run("backup", "restore", whole, "--user", "nobody", code=1).output


def test_data_is_not_overwritten_unless_told_and_stays_in_the_history(admin, tmp_path):
    target = str(tmp_path / "folder")
    admin.run("backup", "create", target)
    media(admin, a=b"replaced", later=b"later")
    upload(admin, ALICE, "a mistake")
    upload(admin, BOB, "stays")
    before = everything(admin)
    assert "there is data already" in admin.run("backup", "restore", target, code=1).output
    assert everything(admin) == before
    told = admin.run("backup", "restore", target, "--user", "alice", "--overwrite").stdout
    assert "2 databases, 2 of them on top" in told
    with admin.stores() as stores:
        assert content_of(stores, COLLECTION) == {"one", "two"}
        assert content_of(stores, COLLECTION, 3) == {"a mistake"}
        assert content_of(stores, MEDIA) == {"a.txt", "c.txt", "later.txt"}
        assert content_of(stores, BOBS) == {"stays"}
        head = stores.databases.head(COLLECTION)
        assert head.stamps["scm"] > before[COLLECTION][2]["scm"]
    admin.run("doctor", "--read-media")


@pytest.mark.parametrize("broken_at", [1, 2, 5, 9])
def test_a_restore_that_was_broken_off_goes_on(admin, other, tmp_path, broken_at, monkeypatch):
    target = str(tmp_path / "folder")
    admin.run("backup", "create", target)
    calls = []
    with monkeypatch.context() as patch:
        real = BackupRestorer._put

        def put(self, database, kept, copying):
            inner = copying.copy

            def copy(*args, **options):
                calls.append(args)
                if len(calls) == broken_at:
                    raise KeyboardInterrupt
                inner(*args, **options)

            copying.copy = copy
            return real(self, database, kept, copying)

        patch.setattr(BackupRestorer, "_put", put)
        other.run("backup", "restore", target, code=1)
    assert len(calls) == broken_at
    other.run("backup", "restore", target)
    assert everything(other) == everything(admin)


def test_a_damaged_object_is_named_and_the_last_backup_of_that_user_stays(admin, other, tmp_path):
    target = str(tmp_path / "folder")
    admin.run("backup", "create", target)
    upload(admin, ALICE, "damaged")
    with admin.stores() as stores:
        key = keys.entry_key(COLLECTION, stores.heads.find(COLLECTION).chain[-1])
    path = admin.root / "objects" / key
    path.write_bytes(path.read_bytes()[:-40] + bytes(40))
    assert key in admin.run("backup", "create", target, code=1).output
    assert key in admin.json("backup", "list", target)[-1]["fault"]
    other.run("backup", "restore", target)
    with other.stores() as stores:
        assert content_of(stores, COLLECTION) == {"one", "two"}
        assert content_of(stores, BOBS) == {"bob's"}


def test_a_target_that_would_mix_with_other_files_is_refused(admin, tmp_path):
    assert "data folder" in admin.run("backup", "create", str(admin.root), code=2).output
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    assert "other files" in admin.run("backup", "create", str(tmp_path / "full"), code=2).output
    assert "no backup" in admin.run("backup", "restore", str(tmp_path / "none"), code=2).output
    assert not (tmp_path / "none").exists()
    assert "--keep" in admin.run("backup", "create", str(tmp_path / "x.tar"), "--keep", "3", code=2).output


def test_an_archive_that_is_cut_is_told(admin, other, tmp_path):
    target = tmp_path / "whole.tar"
    admin.run("backup", "create", str(target))
    cut = tmp_path / "cut.tar"
    cut.write_bytes(target.read_bytes()[: target.stat().st_size // 2])
    assert "Error" in other.run("backup", "restore", str(cut), code=1).output
    assert everything(other) == {}


@pytest.mark.parametrize("broken_at", [1, 3, 6, 10])
def test_a_backup_that_is_broken_off_is_none_and_the_next_one_goes_on(
    admin, other, tmp_path, broken_at, monkeypatch
):
    target = str(tmp_path / "folder")
    admin.run("backup", "create", target)
    upload(admin, BOB, "newer")
    media(admin, d=b"d", e=b"e", f=b"f")
    puts = []
    with monkeypatch.context() as patch:
        real = LocalObjectStore.put

        def put(self, key, content):
            if (tmp_path / "folder") in self._objects.parents:
                puts.append(key)
                if len(puts) == broken_at:
                    raise KeyboardInterrupt
            real(self, key, content)

        patch.setattr(LocalObjectStore, "put", put)
        admin.run("backup", "create", target, code=1)
    assert len(puts) == broken_at
    assert len(admin.json("backup", "list", target)) == 1
    admin.run("backup", "create", target)
    other.run("backup", "restore", target)
    assert everything(other) == everything(admin)


def test_a_store_that_has_lost_its_heads_takes_no_good_backup_away(admin, tmp_path):
    target = str(tmp_path / "folder")
    admin.run("backup", "create", target)
    for path in admin.root.glob("heads.sqlite*"):
        path.unlink()
    assert "nothing was backed up" in admin.run("backup", "create", target, "--keep", "1", code=1).output
    shutil.rmtree(admin.root / "objects")
    assert "no backup was removed" in admin.run("backup", "create", target, "--keep", "1", code=1).output
    assert len(admin.json("backup", "list", target)) == 2


def test_a_user_who_cannot_be_read_is_taken_over_from_the_last_backup_that_has_it(admin, other, tmp_path):
    target = str(tmp_path / "folder")
    admin.run("backup", "create", target)
    admin.run("backup", "create", target, "--user", "bob")
    upload(admin, ALICE, "lost")
    with admin.stores() as stores:
        key = keys.entry_key(COLLECTION, stores.heads.find(COLLECTION).chain[-1])
    (admin.root / "objects" / key).unlink()
    admin.run("backup", "create", target, code=1)
    other.run("backup", "restore", target)
    with other.stores() as stores:
        assert content_of(stores, COLLECTION) == {"one", "two"}
