"""The users' file itself: made once, by whoever comes first; refuses what it does not know."""

from __future__ import annotations

import threading

import apsw
import pytest

from app.auth.passwords import DUMMY_ARGON2, Passwords, verify_hash
from app.auth.usersfile import UsersFile
from app.errors import ServiceUnavailable
from storage.types import run_here


def test_processes_that_start_together_make_one_file(tmp_path):
    path = tmp_path / "deep" / "users.sqlite"
    secrets, gate = [], threading.Barrier(6)

    def start() -> None:
        gate.wait()
        secrets.extend(UsersFile(path, run_here).read("SELECT value FROM secrets"))

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(secrets) == 6
    assert len(set(secrets)) == 1


def test_a_file_left_half_made_by_a_killed_process_is_made_anew(tmp_path):
    (tmp_path / "users.new").write_bytes(b"half")
    file = UsersFile(tmp_path / "users.sqlite", run_here)
    assert file.read("SELECT count(*) FROM users") == [(0,)]


def test_a_newer_format_is_left_alone(tmp_path):
    path = tmp_path / "users.sqlite"
    UsersFile(path, run_here).read("SELECT 1")
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(ServiceUnavailable, match="format 2"):
        UsersFile(path, run_here).read("SELECT 1")


def test_a_failed_write_leaves_nothing(tmp_path):
    file = UsersFile(tmp_path / "users.sqlite", run_here)

    def fail(connection) -> None:
        connection.execute("INSERT INTO secrets VALUES ('x', x'00')")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        file.write(fail)
    assert file.read("SELECT name FROM secrets") == [("attempts",)]


def test_readers_do_not_wait_for_a_writer(tmp_path):
    file = UsersFile(tmp_path / "users.sqlite", run_here)
    seen = file.write(lambda _: file.read("SELECT count(*) FROM users"))
    assert seen == [(0,)]


def test_nobody_has_the_dummys_password():
    assert not verify_hash(DUMMY_ARGON2, "")
    assert not verify_hash(DUMMY_ARGON2, "password")


def test_no_more_passwords_are_verified_at_once_than_allowed():
    running, most, lock = 0, 0, threading.Lock()
    meeting = threading.Barrier(2, timeout=10)

    def verify(text: str, password: str) -> bool:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        meeting.wait()
        with lock:
            running -= 1
        return True

    passwords = Passwords(run_here, at_once=2, verify=verify)
    threads = [threading.Thread(target=passwords.verify, args=("x", ["hash"])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2


def test_a_queue_of_logins_ends_in_try_again_later():
    passwords = Passwords(run_here, at_once=1, wait_s=0, verify=lambda *_: inner())

    def inner() -> bool:
        with pytest.raises(ServiceUnavailable):
            passwords.hash("x")
        return True

    assert passwords.verify("x", ["hash"]) == (True,)
