"""`ankisyncctl` on what is kept: what people see, and what is gone afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import apsw
import pytest
from anki.collection import Collection
from click.testing import CliRunner

from app.cli.admin import cli
from app.cli.context import Admin as Context
from app.cli.official import OfficialError, UserFolder, copy_database, find_media_file
from app.config import Settings
from storage.types import DatabaseId, DatabaseKind

MEDIA = {"plain.txt": b"plain", "große.bin": b"\1" * 2_000_000}


class Admin:
    def __init__(self, root: Path) -> None:
        self.root = root / "data"
        self.env = {"ANKISYNCD_DATA_ROOT": str(self.root), "SYNC_USER1": "alice:a", "SYNC_USER2": "bob:b"}

    def run(self, *arguments: str, stdin: str = "", code: int = 0):
        result = CliRunner().invoke(cli, arguments, input=stdin, env=self.env)
        assert result.exit_code == code, result.output
        return result

    def json(self, *arguments: str, code: int = 0):
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def stores(self):
        return Context(Settings.from_env(self.env)).stores()


@pytest.fixture
def admin(tmp_path):
    return Admin(tmp_path)


@pytest.fixture(scope="module")
def collection(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("collection") / "collection.anki2"
    col = Collection(str(path))
    for word in ("one", "two"):
        note = col.new_note(col.models.by_name("Basic"))
        note.fields = [word, "answer"]
        col.add_note(note, 1)
    col.db.execute("update notes set usn = 0")
    col.db.execute("update cards set usn = 0")
    col.close()
    return path


@pytest.fixture
def base(tmp_path, collection) -> Path:
    """SYNC_BASE of an official server with the user alice, who deleted a file and lost another."""
    folder = tmp_path / "base" / "alice"
    (folder / "media").mkdir(parents=True)
    shutil.copy(collection, folder / "collection.anki2")
    for name, content in MEDIA.items():
        (folder / "media" / name).write_bytes(content)
    media = sqlite3.connect(folder / "media.db")
    media.executescript(
        "CREATE TABLE media (fname text NOT NULL PRIMARY KEY, csum blob NOT NULL, size int NOT NULL,"
        " usn int NOT NULL, mtime int NOT NULL);"
        "CREATE TABLE meta (last_usn int NOT NULL, total_bytes int NOT NULL,"
        " total_nonempty_files int NOT NULL);"
        "INSERT INTO meta VALUES (12, 0, 0); PRAGMA user_version = 4;"
    )
    rows = [("plain.txt", 5, 3), ("große.bin", 2_000_000, 7), ("deleted.txt", 0, 9), ("lost.txt", 4, 10)]
    media.executemany("INSERT INTO media VALUES (?, x'00', ?, ?, 1700000000)", rows)
    media.commit()
    media.close()
    return folder.parent


def head_of(admin, kind=DatabaseKind.MEDIA, name="alice"):
    (user,) = (row["id"] for row in admin.json("status") if row["name"] == name)
    with admin.stores() as stores:
        return stores.databases.head(DatabaseId(user, kind))


def blob_of(admin, name: str) -> Path:
    (path,) = admin.root.rglob(f"*{hashlib.sha256(MEDIA[name]).hexdigest()}*")
    return path


def test_import_brings_everything_with_the_usns_that_clients_know(admin, base):
    result = admin.run("import", str(base))
    assert result.stdout == "alice: 2 notes, 2 media files (1 lost there already)\n"
    assert head_of(admin).stamps == {"usn": 12, "count": 2, "bytes": 2_000_005}
    rows = {row["name"]: row for row in admin.json("status")}
    assert rows["alice"]["notes"] == 2
    assert rows["alice"]["media_files"] == 2
    assert rows["alice"]["changed_ms"] > 0
    assert rows["bob"]["notes"] == 0
    assert rows["bob"]["changed_ms"] is None
    assert all(blob_of(admin, name).stat().st_size == len(content) for name, content in MEDIA.items())
    assert all(finding["fault"] is None for finding in admin.json("doctor", "--read-media"))


def test_import_leaves_the_official_files_as_they_are(admin, base):
    before = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
    admin.run("import", str(base))
    assert {path: path.read_bytes() for path in base.rglob("*") if path.is_file()} == before


def test_import_does_not_overwrite_without_being_told(admin, base):
    admin.run("import", str(base))
    first = head_of(admin)
    result = admin.run("import", str(base), code=1)
    assert "--replace" in result.stderr
    assert head_of(admin) == first
    admin.run("import", str(base), "--replace")
    assert head_of(admin).version == first.version + 1


def test_import_says_who_is_missing_and_goes_on_with_the_others(admin, base):
    shutil.copytree(base / "alice", base / "carol")
    result = admin.run("import", str(base), code=1)
    assert "carol: there is no such user here" in result.stderr
    assert result.stdout.startswith("alice: 2 notes")


def test_import_of_a_corrupt_collection_is_refused_with_the_reason(admin, base):
    (base / "alice" / "collection.anki2").write_bytes(b"SQLite format 3\0" + b"junk" * 500)
    result = admin.run("import", str(base), code=1)
    assert "alice: " in result.stderr
    assert "Traceback" not in result.output
    assert head_of(admin, DatabaseKind.COLLECTION).version == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["import"], 2, "give BASE"),
        (["import", "/nowhere"], 2, "does not exist"),
        (["import", "{empty}"], 1, "no user of an official or older"),
        (["import", "{base}", "--user", "zoe"], 1, "no such user"),
        (["doctor", "zoe"], 1, "no user 'zoe'"),
        (["user", "erase", "nobody"], 1, "nothing is kept"),
        (["user", "erase", ".store"], 1, "is no user"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(admin, base, tmp_path, arguments, code, message):
    (tmp_path / "empty").mkdir()
    arguments = [word.format(base=base, empty=tmp_path / "empty") for word in arguments]
    result = admin.run(*arguments, code=code)
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_log_beside_an_official_database_is_read_too(tmp_path):
    source = tmp_path / "source.db"
    writer = apsw.Connection(str(source))
    writer.pragma("journal_mode", "wal")
    writer.execute("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    killed = tmp_path / "killed.db"
    for suffix in ("", "-wal"):
        shutil.copy(f"{source}{suffix}", f"{killed}{suffix}")
    writer.close()
    copy_database(killed, tmp_path / "copy.db")
    assert apsw.Connection(str(tmp_path / "copy.db")).execute("SELECT x FROM t").get == 1


def test_a_database_that_is_in_use_is_not_copied(tmp_path):
    """The lock belongs to a process, so another one has to hold it."""
    path = tmp_path / "used.db"
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('pragma locking_mode=exclusive');"
        "c.execute('create table t (x)'); c.commit(); print('ready', flush=True); sys.stdin.read()"
    )
    user = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert user.stdout.readline() == b"ready\n"
        with pytest.raises(OfficialError, match="in use"):
            copy_database(path, tmp_path / "copy.db")
    finally:
        user.communicate()
    copy_database(path, tmp_path / "copy.db")


@pytest.mark.parametrize("name", ["", ".", "..", "../media.db", "a/b", "nul\0", "link", "empty", "absent"])
def test_media_names_that_lead_elsewhere_or_nowhere_are_not_followed(tmp_path, name):
    (tmp_path / "media").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "media" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "media" / "empty").touch()
    assert find_media_file(UserFolder(tmp_path), name) is None


def test_doctor_names_what_is_damaged_and_ends_with_1(admin, base):
    admin.run("import", str(base))
    spoilt = blob_of(admin, "große.bin")
    blob_of(admin, "plain.txt").unlink()
    spoilt.chmod(0o600)
    spoilt.write_bytes(b"\2" * 2_000_000)
    faults = [row["fault"] for row in admin.json("doctor", "alice", "--read-media", code=1) if row["fault"]]
    assert faults == [
        "media file 'plain.txt': its content is lost",
        "media file 'große.bin': its content is not what was uploaded",
    ]


def test_doctor_finds_a_damaged_object(admin, base):
    admin.run("import", str(base))
    chain = [path for path in admin.root.rglob("*") if path.is_file() and "collection" in str(path.parent)]
    (stored,) = (path for path in chain if "cache" not in path.parts)
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.chmod(0o600)
    stored.write_bytes(content)
    rows = admin.json("doctor", code=1)
    assert [row["database"] for row in rows if row["fault"]] == ["collection"]


def test_doctor_of_sound_data_ends_with_0(admin, base):
    admin.run("import", str(base))
    rows = admin.json("doctor")
    assert sorted((row["user"], row["database"], row["fault"]) for row in rows) == [
        ("alice", "collection", None),
        ("alice", "media", None),
    ]


def test_maintain_says_what_it_did(admin, base):
    admin.run("import", str(base))
    assert "2 databases, 0 compacted; deleted 0 objects" in admin.run("maintain").stdout


def test_data_of_a_removed_user_stays_until_it_is_erased(admin, base):
    admin.run("user", "add", "alice", "--from-environment", "--password-stdin", stdin="x")
    admin.env.pop("SYNC_USER2")
    admin.env.pop("SYNC_USER1")
    admin.run("import", str(base))
    (row,) = admin.json("status")
    admin.run("user", "erase", row["id"], "--yes", code=1)
    admin.run("user", "remove", "alice", "--yes")
    (kept,) = admin.json("status")
    assert (kept["name"], kept["notes"]) == ("-", 2)
    admin.run("user", "erase", row["id"], "--yes")
    assert admin.json("status") == []


def test_remove_can_delete_the_data_at_once(admin, base):
    admin.run("user", "add", "alice", "--from-environment", "--password-stdin", stdin="x")
    admin.env = {"ANKISYNCD_DATA_ROOT": str(admin.root)}
    admin.run("import", str(base))
    admin.run("user", "remove", "alice", "--yes", "--delete-data")
    assert admin.json("status") == []


def forget_heads(admin, how="deleted"):
    for path in admin.root.glob("heads.sqlite*"):
        path.unlink()
    if how == "emptied":
        (admin.root / "heads.sqlite").touch()


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_lost_head_records_are_found_by_doctor_and_nothing_is_deleted(admin, base, how):
    admin.run("import", str(base))
    admin.run("maintain")
    make_old(admin)
    before = sorted(admin.root.glob("objects/v1/**/*")) + sorted(admin.root.glob("objects/blobs/*"))
    forget_heads(admin, how)
    result = admin.run("doctor", code=1)
    assert result.stdout.count("the head record is lost") == 2
    assert "heads.sqlite, or the table, was lost or restored" in result.stderr
    assert "nothing was touched" in admin.run("maintain", "--full", code=1).stderr
    assert sorted(admin.root.glob("objects/v1/**/*")) + sorted(admin.root.glob("objects/blobs/*")) == before


def test_head_records_of_an_earlier_moment_are_found_by_doctor_and_nothing_is_deleted(admin, base):
    admin.run("import", str(base))
    admin.run("maintain")
    earlier = (admin.root / "heads.sqlite").read_bytes()
    for _ in range(2):
        admin.run("import", str(base), "--replace")
    admin.run("maintain")
    make_old(admin)
    forget_heads(admin)
    (admin.root / "heads.sqlite").write_bytes(earlier)
    faults = [row["fault"] for row in admin.json("doctor", code=1)]
    assert sum("the head record is of an earlier moment: " in fault for fault in faults) == 2
    assert "of an earlier moment than the stored objects" in admin.run("maintain", code=1).stderr


def test_a_loss_that_is_accepted_is_no_fault_any_more(admin, base):
    admin.run("import", str(base))
    admin.run("maintain")
    make_old(admin)
    forget_heads(admin)
    admin.run("maintain", "--full", "--accept-loss")
    assert not list(admin.root.glob("objects/blobs/*"))
    admin.run("import", str(base))
    admin.run("maintain")
    admin.run("doctor")


def test_what_a_lost_head_has_left_can_be_erased(admin, base):
    admin.run("import", str(base))
    (user,) = (row["id"] for row in admin.json("status") if row["name"] == "alice")
    forget_heads(admin)
    admin.env["SYNC_USER1"] = admin.env.pop("SYNC_USER2")
    admin.run("user", "erase", user, "--yes")
    assert not list(admin.root.glob("objects/v1/*"))
    admin.run("doctor")


@pytest.mark.parametrize("shard", ["0/2", "3/2", "x", "1/0", "1", "-1/2"])
def test_a_shard_that_makes_no_sense_is_refused(admin, shard):
    assert "is not like 2/8" in admin.run("maintain", f"--shard={shard}", code=2).stderr


def test_maintain_takes_a_shard_of_the_users(admin, base):
    admin.run("import", str(base))
    done = [admin.run("maintain", "--shard", f"{number}/2").stdout for number in (1, 2)]
    assert sorted(line.partition(" ")[0] for line in done) == ["0", "2"]


def make_old(admin):
    for path in admin.root.glob("objects/[vb]*/**/*"):
        os.utime(path, (time.time() - 40 * 86400,) * 2)
