"""`user export`, `purge` and `reset` on one machine: what is handed out, and what is left."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from pathlib import Path

import pytest
from anki.collection import Collection
from click.testing import CliRunner

from app.cli.admin import cli
from app.cli.context import Admin as Context
from app.cli.purging import Purger
from app.config import Settings
from app.main import build_collections, build_gate
from app.sync.transfer import OK
from storage.media.blobs import NewBlob, facts_of
from storage.types import run_inline

SHARED, ALONE, LARGE = b"everybody has this", b"only alice has this", b"\1" * 2_000_000


class Admin:
    """Two users of the list, each with a collection and media; alice has logged two devices in."""

    def __init__(self, root: Path, collection: Path) -> None:
        self.root = root / "data"
        self.env = {"ANKISYNCD_DATA_ROOT": str(self.root)}
        for name in ("alice", "bob"):
            self.run("user", "add", name, "--password-stdin", stdin=name)
        self.ids = {row["name"]: row["id"] for row in self.json("user", "list")}
        server = Context(Settings.from_env(self.env))
        for client in ("desktop", "phone"):
            server.accounts.authenticator.login("alice", "alice", "192.0.2.1", client)
        with server.stores() as stores:
            for name, media in (
                ("alice", {"shared.txt": SHARED, "own.txt": ALONE, "große.bin": LARGE}),
                ("bob", {"theirs.txt": SHARED}),
            ):
                copy = root / "copy.anki2"
                copy.write_bytes(collection.read_bytes())
                service = build_collections(server.settings, stores, offload=run_inline)
                assert service.upload(self.ids[name], copy) == OK
                facts = {file: facts_of(content, zlib.crc32(content)) for file, content in media.items()}
                stores.blobs.put_new(
                    [NewBlob(facts[file].sha256, content) for file, content in media.items()]
                )
                gate = build_gate(stores, offload=run_inline)
                gate.change(self.ids[name], lambda index, facts=facts: index.apply(facts.items(), 1))

    def run(self, *arguments: str, stdin: str = "", code: int = 0):
        result = CliRunner().invoke(cli, arguments, input=stdin, env=self.env)
        assert result.exit_code == code, result.output
        return result

    def json(self, *arguments: str, code: int = 0):
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def status(self, name: str):
        return {row["name"]: row for row in self.json("status")}.get(name)

    def blob(self, content: bytes) -> Path:
        return self.root / "objects" / "blobs" / hashlib.sha256(content).hexdigest()

    def paths_with(self, word: str) -> list[Path]:
        """Files of the server that are named after a word or hold it; but for the audit trail."""
        files = [path for path in self.root.rglob("*") if path.is_file() and path.name != "audit.log"]
        return [path for path in files if word in str(path) or word.encode() in path.read_bytes()]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


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
def admin(tmp_path, collection) -> Admin:
    return Admin(tmp_path, collection)


class TestExport:
    def test_anki_imports_the_collection_with_its_media(self, admin, tmp_path):
        row = admin.json("user", "export", "alice", str(tmp_path / "out"))
        assert (row["notes"], row["media_files"], row["lost"]) == (2, 3, 0)
        notes, media = imported(tmp_path / "out" / "collection.colpkg", tmp_path / "fresh")
        assert notes == 2
        assert media == {"shared.txt": SHARED, "own.txt": ALONE, "große.bin": LARGE}

    def test_what_is_known_of_devices_and_versions_goes_with_it(self, admin, tmp_path):
        admin.run("user", "reset", "alice", "--collection", "--yes")
        admin.run("user", "export", "alice", str(tmp_path / "out"), "--versions")
        about = json.loads((tmp_path / "out" / "about.json").read_text())
        assert about["user"]["name"] == "alice"
        assert [device["client"] for device in about["devices"]] == ["desktop", "phone"]
        assert [version["version"] for version in about["versions"]["collection"]] == [1, 2]
        assert imported(tmp_path / "out" / "versions" / "1.colpkg", tmp_path / "fresh")[0] == 2
        assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]

    def test_a_user_who_never_synced_gets_an_empty_collection(self, admin, tmp_path):
        admin.run("user", "add", "carol", "--password-stdin", stdin="x")
        admin.run("user", "export", "carol", str(tmp_path / "out"))
        assert imported(tmp_path / "out" / "collection.colpkg", tmp_path / "fresh") == (0, {})

    def test_lost_and_damaged_media_are_named_and_all_else_is_there(self, admin, tmp_path):
        admin.blob(ALONE).unlink()
        spoil(admin.blob(LARGE))
        result = admin.run("user", "export", "alice", str(tmp_path / "out"), code=1)
        assert "'große.bin'" in result.stderr
        assert "'own.txt'" in result.stderr
        assert imported(tmp_path / "out" / "collection.colpkg", tmp_path / "fresh")[1] == {
            "shared.txt": SHARED
        }

    def test_a_name_that_leads_elsewhere_writes_nothing_there(self, admin, tmp_path):
        spoil_index(admin, "UPDATE files SET name = '../../../up.txt' WHERE name = 'own.txt'")
        result = admin.run("user", "export", "alice", str(tmp_path / "out"), code=1)
        assert "up.txt" in result.stderr
        assert list(tmp_path.rglob("up.txt")) == []

    def test_a_folder_that_exists_is_left_alone(self, admin, tmp_path):
        (tmp_path / "out").mkdir()
        assert "exists already" in admin.run("user", "export", "alice", str(tmp_path / "out"), code=1).stderr
        assert list((tmp_path / "out").iterdir()) == []


class TestPurge:
    def test_a_dry_run_says_what_there_is_and_deletes_nothing(self, admin):
        before = admin.status("alice")
        row = admin.json("user", "purge", "alice", "--dry-run")
        assert (row["keys"], row["databases"], row["media_contents"], row["shared_contents"]) == (2, 2, 2, 1)
        assert row["objects"] >= 2
        assert admin.status("alice") == before
        assert admin.blob(ALONE).exists()

    def test_nothing_of_the_user_is_left_and_all_of_others(self, admin):
        row = admin.json("user", "purge", "alice", "--yes", "--at-once")
        assert (row["keys"], row["media_contents"]) == (2, 2)
        # Deleted rows may stay in free pages; lock files hold no data, and servers may have them open.
        left = [path for path in admin.paths_with(admin.ids["alice"]) if "sqlite" not in path.name]
        assert {path.name for path in left} <= {"lock"}
        assert not admin.blob(ALONE).exists()
        assert not admin.blob(LARGE).exists()
        assert admin.blob(SHARED).read_bytes() == SHARED
        assert admin.status("alice") is None
        assert admin.json("key", "list") == []
        assert admin.status("bob")["notes"] == 2
        assert all(finding["fault"] is None for finding in admin.json("doctor", "--read-media"))

    def test_media_of_the_last_day_are_left_to_maintenance_and_listed(self, admin):
        row = admin.json("user", "purge", "alice", "--yes")
        assert row["media_contents"] == 0
        (left,) = [left for left in row["remaining"] if "media contents" in left["what"]]
        assert "2 media contents" in left["what"]
        assert left["until_ms"] > now_ms()
        assert admin.blob(ALONE).exists()
        for path in admin.root.glob("objects/blobs/*"):
            os.utime(path, (time.time() - 40 * 86400,) * 2)
        admin.run("maintain", "--full")
        assert not admin.blob(ALONE).exists()
        assert admin.blob(SHARED).exists()

    def test_older_media_go_at_once(self, admin):
        os.utime(admin.blob(ALONE), (time.time() - 40 * 86400,) * 2)
        assert admin.json("user", "purge", "alice", "--yes")["media_contents"] == 1
        assert not admin.blob(ALONE).exists()

    def test_it_asks_and_a_no_changes_nothing(self, admin):
        admin.run("user", "purge", "alice", stdin="n\n", code=1)
        assert admin.status("alice")["notes"] == 2

    def test_one_that_was_broken_off_is_taken_up_by_the_id(self, admin, monkeypatch):
        monkeypatch.setattr("app.cli.purging.Purger._delete_contents", interrupt)
        with pytest.raises(RuntimeError):
            CliRunner().invoke(
                cli, ["user", "purge", "alice", "--yes"], env=admin.env, catch_exceptions=False
            )
        monkeypatch.undo()
        assert "alice" not in [row["name"] for row in admin.json("user", "list")]
        row = admin.json("user", "purge", admin.ids["alice"], "--yes", "--at-once")
        assert row["media_contents"] == 2
        assert not admin.blob(ALONE).exists()

    def test_a_media_index_that_cannot_be_read_saves_all_contents(self, admin):
        (index,) = (admin.root / "objects" / "v1" / admin.ids["bob"] / "media" / "s").iterdir()
        spoil(index)
        for path in (admin.root / "cache").rglob("*"):
            if path.is_file():
                path.unlink()
        row = admin.json("user", "purge", "alice", "--yes", "--at-once")
        assert any("cannot be read" in left["note"] for left in row["remaining"])
        assert admin.blob(ALONE).exists()

    @pytest.mark.parametrize(
        ("name", "message"), [("nobody", "nothing is kept"), (".store", "is no user"), ("a/b", "no user")]
    )
    def test_what_is_nobody_is_refused(self, admin, name, message):
        assert message in admin.run("user", "purge", name, "--yes", code=1).stderr

    def test_nothing_is_deleted_while_a_server_may_remember_a_key(self, admin):
        context = Context(Settings.from_env(admin.env))
        waits = []

        def sleep(seconds: float) -> None:
            waits.append((seconds, list(context.keys.list(admin.ids["alice"])), admin.blob(ALONE).exists()))

        with context.stores() as stores:
            purger = Purger(stores, context.keys, None, now_ms, lambda items, *_: items, 65, sleep)
            plan = purger.plan(admin.ids["alice"])
            done = purger.purge(plan, lambda: None, at_once=False)
            again = purger.purge(plan, lambda: None, at_once=True)
        assert waits == [(65, [], True)]
        assert [left.what for left in again.remaining] == ["keys that servers remember"]
        assert not any("keys" in left.what for left in done.remaining)

    def test_it_leaves_audit_lines_with_what_was_deleted(self, admin):
        admin.run("user", "purge", "alice", "--yes", "--at-once")
        line = (admin.root / "audit.log").read_text().splitlines()[-1]
        assert "user purge" in line
        assert f"user={admin.ids['alice']}" in line
        assert "contents=2" in line


class TestReset:
    @pytest.mark.parametrize(("kind", "figure"), [("collection", "notes"), ("media", "media_files")])
    def test_one_is_emptied_and_the_other_kept(self, admin, kind, figure):
        before = admin.status("alice")
        assert admin.json("user", "reset", "alice", f"--{kind}", "--dry-run")["done"] is False
        assert admin.status("alice") == before
        admin.run("user", "reset", "alice", f"--{kind}", "--yes")
        after = admin.status("alice")
        assert after[figure] == 0
        other = {"notes", "media_files"} - {figure}
        assert all(after[name] == before[name] for name in other)

    @pytest.mark.parametrize(("kind", "figure"), [("collection", "notes"), ("media", "media_files")])
    def test_the_history_brings_it_back(self, admin, kind, figure):
        before = admin.status("alice")[figure]
        admin.run("user", "reset", "alice", f"--{kind}", "--yes")
        admin.run("history", "restore", "alice", "1", kind, "--yes")
        assert admin.status("alice")[figure] == before

    def test_media_that_were_reset_are_kept_for_the_history(self, admin):
        admin.run("user", "reset", "alice", "--media", "--yes")
        for path in admin.root.glob("objects/blobs/*"):
            os.utime(path, (time.time() - 3 * 86400,) * 2)
        admin.run("maintain", "--full")
        assert admin.blob(ALONE).exists()

    @pytest.mark.parametrize(
        ("words", "code"), [(["alice"], 2), (["nobody", "--media"], 1), (["alice", "--media", "--yes"], 1)]
    )
    def test_what_cannot_be_reset_is_refused(self, admin, words, code):
        admin.run("user", "reset", "alice", "--media", "--yes")
        admin.run("user", "purge", "bob", "--yes")
        admin.run("user", "add", "carol", "--password-stdin", stdin="x")
        admin.run("user", "reset", *(word.replace("alice", "carol") for word in words), code=code)


def imported(package: Path, folder: Path) -> tuple[int, dict[str, bytes]]:
    """What Anki has after File, Import of a package into a new profile."""
    folder.mkdir(exist_ok=True)
    media = folder / "collection.media"
    media.mkdir()
    col = Collection(str(folder / "collection.anki2"))
    backend = col._backend
    col.close(downgrade=False)
    backend.import_collection_package(
        col_path=str(folder / "collection.anki2"),
        backup_path=str(package),
        media_folder=str(media),
        media_db=str(folder / "collection.media.db2"),
    )
    col = Collection(str(folder / "collection.anki2"))
    try:
        return col.note_count(), {path.name: path.read_bytes() for path in media.iterdir()}
    finally:
        col.close()


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)


def interrupt(*_: object) -> None:
    raise RuntimeError


class TestMediaRebuild:
    def test_lost_and_damaged_files_are_named_by_a_dry_run_which_changes_nothing(self, admin):
        admin.blob(ALONE).unlink()
        spoil(admin.blob(LARGE))
        rows = admin.json("media", "rebuild", "alice", "--dry-run")
        assert rows == [
            {"name": "own.txt", "fault": "its content is lost"},
            {"name": "große.bin", "fault": "its content is not what was uploaded"},
        ]
        assert admin.status("alice")["media_files"] == 3
        assert admin.blob(LARGE).exists()

    def test_they_are_dropped_without_a_tombstone_and_counted_anew(self, admin):
        admin.blob(ALONE).unlink()
        spoil(admin.blob(LARGE))
        admin.run("media", "rebuild", "alice", "--yes")
        assert changes(admin) == ["shared.txt"]
        assert admin.status("alice")["media_files"] == 1
        assert admin.status("alice")["media_bytes"] == len(SHARED)
        assert not admin.blob(LARGE).exists()
        assert all(finding["fault"] is None for finding in admin.json("doctor", "--read-media"))
        assert admin.json("media", "rebuild", "alice", "--yes") == []

    def test_rows_that_do_not_fit_their_content_are_dropped_and_the_content_kept(self, admin):
        spoil_index(admin, "UPDATE files SET sha1 = zeroblob(20) WHERE name = 'own.txt'")
        spoil_index(admin, "UPDATE files SET name = 'a/b' WHERE name = 'shared.txt'")
        faults = [row["fault"] for row in admin.json("media", "rebuild", "alice", "--yes")]
        assert faults == [
            "a file name with a separator",
            "the index tells another size or checksum than the content has",
        ]
        assert changes(admin) == ["große.bin"]
        assert admin.blob(ALONE).exists()

    def test_wrong_counts_are_set_right(self, admin):
        spoil_index(admin, "UPDATE totals SET files = 17")
        assert admin.status("alice")["media_files"] == 17
        assert "counts were wrong" in admin.run("media", "rebuild", "alice", "--yes").stderr
        assert admin.status("alice")["media_files"] == 3

    def test_what_is_sound_is_not_committed_anew(self, admin):
        before = admin.json("history", "list", "alice", "media")
        admin.run("media", "rebuild", "alice", "--yes")
        assert admin.json("history", "list", "alice", "media") == before


def changes(admin: Admin) -> list[str]:
    """The files that a device that has nothing is told of."""
    with Context(Settings.from_env(admin.env)).stores() as stores:
        gate = build_gate(stores, offload=run_inline)
        found = gate.read(admin.ids["alice"], lambda index: index.changes_since(0), otherwise=[])
    return [name for name, _, sha1 in found if sha1]


def spoil_index(admin: Admin, sql: str) -> None:
    """As a fault of ours would have written it: a commit like any other."""

    def work(index) -> bool:
        index._connection.execute(sql)
        return True

    with Context(Settings.from_env(admin.env)).stores() as stores:
        build_gate(stores, offload=run_inline).change(admin.ids["alice"], work)
