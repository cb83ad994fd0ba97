"""The users' file itself: made once, by whoever comes first; refuses what it does not know."""

from __future__ import annotations

import os
import threading

import apsw
import pytest

from app.auth.local.usersfile import UsersFile
from app.auth.passwords import DUMMY_ARGON2, verify_hash
from app.errors import ServiceUnavailable
from storage.types import run_inline


def test_processes_that_start_together_make_one_file(tmp_path):
    path = tmp_path / "deep" / "users.sqlite"
    secrets, gate = [], threading.Barrier(6)

    def start() -> None:
        gate.wait()
        secrets.extend(UsersFile(path, run_inline).read("SELECT value FROM secrets"))

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(secrets) == 6
    assert len(set(secrets)) == 1


def test_a_file_left_half_made_by_a_killed_process_is_made_anew(tmp_path):
    (tmp_path / "users.new").write_bytes(b"half")
    file = UsersFile(tmp_path / "users.sqlite", run_inline)
    assert file.read("SELECT count(*) FROM users") == [(0,)]


def test_a_newer_format_is_left_alone(tmp_path):
    path = tmp_path / "users.sqlite"
    UsersFile(path, run_inline).read("SELECT 1")
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA user_version = 4")
    connection.close()
    with pytest.raises(ServiceUnavailable, match="format 4"):
        UsersFile(path, run_inline).read("SELECT 1")


def test_a_failed_write_leaves_nothing(tmp_path):
    file = UsersFile(tmp_path / "users.sqlite", run_inline)

    def fail(connection) -> None:
        connection.execute("INSERT INTO secrets VALUES ('x', x'00')")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        file.write(fail)
    assert file.read("SELECT name FROM secrets") == [("attempts",)]


def test_readers_do_not_wait_for_a_writer(tmp_path):
    file = UsersFile(tmp_path / "users.sqlite", run_inline)
    seen = file.write(lambda _: file.read("SELECT count(*) FROM users"))
    assert seen == [(0,)]


def test_nobody_has_the_dummys_password():
    assert not verify_hash(DUMMY_ARGON2, "")
    assert not verify_hash(DUMMY_ARGON2, "password")


def test_a_file_of_format_1_is_brought_up_to_date_by_whichever_process_comes_first(tmp_path):
    path = tmp_path / "users.sqlite"
    file = UsersFile(path, run_inline)
    secret = file.read("SELECT value FROM secrets")
    connection = apsw.Connection(str(path))
    connection.execute(
        "DROP TABLE counts; CREATE TABLE attempts (id INTEGER PRIMARY KEY); PRAGMA user_version = 1;"
        "ALTER TABLE keys DROP COLUMN kind; ALTER TABLE keys DROP COLUMN name;"
        "ALTER TABLE keys DROP COLUMN parent;"
    )
    connection.close()
    answers, gate = [], threading.Barrier(4)

    def start() -> None:
        gate.wait()
        answers.append(UsersFile(path, run_inline).read("SELECT count(*) FROM counts"))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[(0,)]] * 4
    assert UsersFile(path, run_inline).read("SELECT value FROM secrets") == secret
    assert UsersFile(path, run_inline).read("SELECT name FROM sqlite_schema WHERE name = 'attempts'") == []


def open_to_others(folder) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o077 for path in folder.iterdir()}


def test_all_files_are_for_their_owner_alone_in_a_folder_that_is_not(tmp_path):
    tmp_path.chmod(0o755)
    old = os.umask(0)
    try:
        file = UsersFile(tmp_path / "users.sqlite", run_inline)
        file.write(lambda connection: connection.execute("DELETE FROM secrets") and None)
        file.read("SELECT 1")
        modes = open_to_others(tmp_path)
    finally:
        os.umask(old)
    assert set(modes.values()) == {0}
    assert {"users.sqlite", "users.sqlite-wal", "users.sqlite.lock"} <= modes.keys()


def test_files_that_somebody_else_left_open_are_closed_to_others(tmp_path):
    path = tmp_path / "users.sqlite"
    first = UsersFile(path, run_inline)
    first.read("SELECT 1")
    for found in tmp_path.iterdir():
        found.chmod(0o644)
    UsersFile(path, run_inline).read("SELECT 1")
    assert set(open_to_others(tmp_path).values()) == {0}


def test_a_file_made_by_root_belongs_to_the_owner_of_the_folder(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda path, user, group: given.append((path.name, user, group)))
    UsersFile(tmp_path / "users.sqlite", run_inline).read("SELECT 1")
    owner = tmp_path.stat()
    names = ("users.new", "users.sqlite.lock")
    assert given == [(name, owner.st_uid, owner.st_gid) for name in names]
