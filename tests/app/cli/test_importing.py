"""`ankisyncctl import` of older Python servers and of packages: what is taken, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from anki.collection import Collection
from click.testing import CliRunner

from app.cli.admin import cli
from app.cli.importing import Importer
from storage.types import DatabaseKind


class Admin:
    def __init__(self, root: Path) -> None:
        self.root = root / "data"
        self.env = {"ANKISYNCD_DATA_ROOT": str(self.root), "SYNC_USER1": "alice:a", "SYNC_USER2": "bob:b"}

    def run(self, *arguments: str, code: int = 0):
        result = CliRunner().invoke(cli, arguments, env=self.env)
        assert result.exit_code == code, result.output
        return result

    def json(self, *arguments: str):
        return json.loads(self.run(*arguments, "--json").stdout)

    def figures(self, name: str = "alice") -> tuple[int, int]:
        (row,) = (row for row in self.json("status") if row["name"] == name)
        return row["notes"], row["media_files"]


@pytest.fixture
def admin(tmp_path: Path) -> Admin:
    return Admin(tmp_path)


def make_collection(path: Path, words: tuple[str, ...] = ("one", "two")) -> None:
    col = Collection(str(path))
    for word in words:
        note = col.new_note(col.models.by_name("Basic"))
        note.fields = [word, "answer"]
        col.add_note(note, 1)
    col.db.execute("update notes set usn = 0")
    col.db.execute("update cards set usn = 0")
    col.close(downgrade=True)


def make_older(folder: Path, rows: dict[str, tuple[int, bytes | None]]) -> None:
    """A user's folder of an older Python server; the rows are USN and content, None for one removed."""
    (folder / "collection.media").mkdir(parents=True)
    make_collection(folder / "collection.anki2")
    database = sqlite3.connect(folder / "collection.media.server.db")
    database.execute("CREATE TABLE media (fname TEXT NOT NULL PRIMARY KEY, usn INT NOT NULL, csum TEXT)")
    for name, (usn, content) in rows.items():
        csum = hashlib.sha1(content).hexdigest() if content else None
        database.execute("INSERT INTO media VALUES (?, ?, ?)", (name, usn, csum))
        if content and "/" not in name:
            (folder / "collection.media" / name).write_bytes(content)
    database.commit()
    database.close()


ROWS = {"a.txt": (3, b"a"), "b.txt": (7, b"b"), "gone.txt": (9, None)}


@pytest.mark.parametrize("place", ["", "users", "collections", "collections/users"])
def test_the_users_of_an_older_server_are_found_wherever_its_folder_begins(admin, tmp_path, place):
    make_older(tmp_path / "older" / place / "alice", ROWS)
    assert admin.run("import", str(tmp_path / "older")).stdout == "alice: 2 notes, 2 media files\n"
    assert admin.figures() == (2, 2)


def test_what_is_lost_damaged_or_misnamed_there_gets_no_row(admin, tmp_path):
    folder = tmp_path / "alice"
    make_older(folder, ROWS | {"lost.txt": (10, b"x"), "rotten.txt": (11, b"x"), "../up.txt": (12, b"x")})
    (folder / "collection.media" / "lost.txt").unlink()
    (folder / "collection.media" / "rotten.txt").write_bytes(b"y")
    assert "2 media files (3 lost there already)" in admin.run("import", str(tmp_path)).stdout


def test_without_a_media_database_the_files_are_counted_anew(admin, tmp_path):
    make_older(tmp_path / "alice", ROWS)
    (tmp_path / "alice" / "collection.media.server.db").unlink()
    assert "2 notes, 2 media files" in admin.run("import", str(tmp_path)).stdout


def test_an_import_that_was_broken_off_goes_on_where_it_was(admin, tmp_path, monkeypatch):
    make_older(tmp_path / "alice", ROWS)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Importer, "_bring_media", die)
    admin.run("import", str(tmp_path), code=1)
    monkeypatch.undo()
    assert admin.figures() == (2, 0)
    assert admin.run("import", str(tmp_path)).stdout == "alice: 2 media files\n"
    assert admin.figures() == (2, 2)
    assert "--replace" in admin.run("import", str(tmp_path), code=1).stderr


def test_a_media_database_of_another_kind_is_refused_by_name(admin, tmp_path):
    make_older(tmp_path / "alice", ROWS)
    (tmp_path / "alice" / "collection.media.server.db").write_bytes(b"junk" * 1000)
    result = admin.run("import", str(tmp_path), code=1)
    assert "alice: " in result.stderr
    assert "Traceback" not in result.output
    assert admin.figures() == (2, 0)


class TestPackages:
    @pytest.fixture
    def package(self, tmp_path: Path) -> Path:
        folder = tmp_path / "profile"
        folder.mkdir()
        make_collection(folder / "collection.anki2", ("one", "two", "three"))
        col = Collection(str(folder / "collection.anki2"))
        col.media.write_data("picture.png", b"picture")
        col.export_collection_package(str(tmp_path / "out.colpkg"), include_media=True, legacy=False)
        return tmp_path / "out.colpkg"

    def test_it_becomes_the_collection_and_its_media_are_added(self, admin, package):
        admin.run("import", str(package), "--user", "alice")
        assert admin.figures() == (3, 1)
        assert all(finding["fault"] is None for finding in admin.json("doctor"))

    def test_it_replaces_only_if_it_is_told_to(self, admin, package, tmp_path):
        make_older(tmp_path / "older" / "alice", ROWS)
        admin.run("import", str(tmp_path / "older"))
        assert "--replace" in admin.run("import", str(package), "--user", "alice", code=1).stderr
        assert admin.figures() == (2, 2)
        admin.run("import", str(package), "--user", "alice", "--replace")
        assert admin.figures() == (3, 3)
        assert [row["version"] for row in admin.json("history", "list", "alice")] == [1, 2]

    @pytest.mark.parametrize("words", [[], ["--user", "alice", "--user", "bob"]])
    def test_it_is_for_one_user(self, admin, package, words):
        assert "one --user" in admin.run("import", str(package), *words, code=2).stderr

    def test_what_is_no_package_is_refused_and_changes_nothing(self, admin, package):
        package.write_bytes(b"junk" * 1000)
        result = admin.run("import", str(package), "--user", "alice", code=1)
        assert "no package that Anki can import" in result.stderr
        assert admin.figures() == (0, 0)


def test_the_files_of_the_other_server_stay_as_they_are(admin, tmp_path):
    make_older(tmp_path / "older" / "alice", ROWS)
    before = {path: path.read_bytes() for path in (tmp_path / "older").rglob("*") if path.is_file()}
    admin.run("import", str(tmp_path / "older"))
    assert {path: path.read_bytes() for path in (tmp_path / "older").rglob("*") if path.is_file()} == before
    shutil.rmtree(tmp_path / "older")
    assert {kind.value for kind in DatabaseKind} == {row["database"] for row in admin.json("doctor", "alice")}
