"""Coming from an older Python server, or with a package: devices go on, or choose download once."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from anki.collection import Collection

from tests.conformance.conftest import Make
from tests.conformance.device import NEWEST, assert_same
from tests.conformance.test_moving_over import converge, import_from
from tests.support import servers

pytestmark = pytest.mark.one_server


def classic(rows: list[tuple[str, bytes, int, int]], path: Path) -> None:
    """The media database of anki-sync-server 2.4 and its kin, as their source has it."""
    database = sqlite3.connect(path)
    database.executescript(
        "CREATE TABLE media (fname TEXT NOT NULL PRIMARY KEY, usn INT NOT NULL, csum TEXT);"
        "CREATE INDEX idx_media_usn ON media (usn);"
    )
    database.executemany(
        "INSERT INTO media VALUES (?, ?, ?)",
        [(name, usn, csum.hex() if size else None) for name, csum, size, usn in rows],
    )
    database.commit()
    database.close()


def logged(rows: list[tuple[str, bytes, int, int]], path: Path) -> None:
    """The media database of a later one, which logs each operation; user_version 5."""
    database = sqlite3.connect(path)
    database.executescript(
        "CREATE TABLE media_operations (usn INTEGER PRIMARY KEY, operation TEXT NOT NULL,"
        " fname TEXT NOT NULL, csum BLOB, size INTEGER, timestamp INTEGER NOT NULL);"
        "CREATE TABLE media_current (fname TEXT PRIMARY KEY, csum BLOB NOT NULL, size INTEGER NOT NULL,"
        " added_usn INTEGER NOT NULL, mtime INTEGER NOT NULL);"
        "CREATE TABLE meta (last_usn INTEGER NOT NULL, total_bytes INTEGER NOT NULL,"
        " total_nonempty_files INTEGER NOT NULL);"
        "PRAGMA user_version = 5;"
    )
    for name, csum, size, usn in rows:
        operation = "add" if size else "remove"
        database.execute(
            "INSERT INTO media_operations VALUES (?, ?, ?, ?, ?, 1700000000)",
            (usn, operation, name, csum if size else None, size or None),
        )
        if size:
            database.execute(
                "INSERT INTO media_current VALUES (?, ?, ?, ?, 1700000000)", (name, csum, size, usn)
            )
    database.execute("INSERT INTO meta SELECT max(usn), 0, 0 FROM media_operations")
    database.commit()
    database.close()


def as_older(source: Path, into: Path, write_media: Callable[[list, Path], None]) -> None:
    """What an older server keeps of a user, made of what the official one has; schema 11."""
    into.mkdir(parents=True)
    shutil.copy(source / "collection.anki2", into)
    Collection(str(into / "collection.anki2")).close(downgrade=True)
    shutil.copytree(source / "media", into / "collection.media", dirs_exist_ok=True)
    media = sqlite3.connect(source / "media.db")
    rows = media.execute("SELECT fname, csum, size, usn FROM media ORDER BY usn").fetchall()
    media.close()
    write_media(rows, into / "collection.media.server.db")


@pytest.mark.parametrize("write_media", [classic, logged])
def test_devices_of_an_older_python_server_go_on_without_a_full_sync(
    make_device: Make, tmp_path: Path, write_media: Callable[[list, Path], None]
) -> None:
    with servers.serving(servers.OFFICIAL, tmp_path / "official", 1) as official:
        user = official.next_user()
        a, b = (make_device(user, NEWEST, official.url) for _ in range(2))
        a.modern_scheduler()
        a.add_notes([["one", "1"], ["two", "2"]], tags=["kept"])
        a.write_media("plain.txt", 100, "v1")
        a.write_media("large.bin", 3_000_000, "v1")
        a.write_media("gone.txt", 100, "v1")
        a.first_upload()
        b.first_download()
        converge(a, b)
        a.remove_media("gone.txt")
        converge(a, b)
    data = tmp_path / "older" / "data"
    as_older(tmp_path / "official" / user.name, data / "collections" / "users" / user.name, write_media)
    place = servers.Server("", "", 1, data, official.users, data, official.process)
    before = contents(data)
    done = import_from(place)
    assert (done.returncode, done.stdout) == (0, "user1: 2 notes, 2 media files\n"), done.stderr
    assert {path: content for path, content in contents(data).items() if path in before} == before
    again = import_from(place)
    assert again.returncode == 1
    assert "--replace" in again.stderr

    with servers.serving(servers.OURS, data, official.users) as ours:
        for device in (a, b):
            device.log_in(ours.url, user)
            device.settle()
            device.sync_media()
        a.add_notes([["three", "3"]])
        b.write_media("new.txt", 100, "v1")
        converge(a, b)
        assert a.media() == b.media()
        assert [entry[0] for entry in a.media()] == ["large.bin", "new.txt", "plain.txt"]
        fresh = make_device(user, NEWEST, ours.url)
        fresh.first_download()
        fresh.sync_media()
        assert fresh.media() == a.media()
        assert_same(a, b, fresh)


def test_a_package_takes_the_place_of_a_collection_and_devices_download_it(
    make_device: Make, tmp_path: Path, server: servers.Server
) -> None:
    user, giver = server.next_user(), server.next_user()
    a, source = make_device(user), make_device(giver)
    a.add_notes([["to be replaced", "1"]])
    a.write_media("kept.txt", 100, "v1")
    a.first_upload()
    a.sync_media()
    source.add_notes([["one", "1"], ["two", "2"]])
    source.write_media("picture.bin", 3_000_000, "v1")
    package = tmp_path / "moved.colpkg"
    source.export_package(str(package))
    env = servers.environment(server.users, server.folder, server.port, {})
    command = [*servers.COMMANDS[servers.OURS][:2], "app.cli", "import", str(package), "--user", user.name]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more],
            env=env,
            cwd=servers.REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    assert "--replace" in run().stderr
    done = run("--replace")
    assert (done.returncode, done.stdout.partition(".")[0]) == (0, f"{user.name}: 2 notes, 1 media files")
    assert a.sync() == "full"
    a.download()
    a.sync_media()
    assert a.state()["notes"] and len(a.rows("select id from notes")) == 2
    assert [entry[0] for entry in a.media()] == ["kept.txt", "picture.bin"]
    a.add_notes([["and on it goes", ""]])
    a.settle()


def contents(folder: Path) -> dict[Path, str]:
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()
    }
