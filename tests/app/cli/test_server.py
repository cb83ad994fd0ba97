"""`ankisyncd` as an operator meets it: what it says when it starts, and why when it does not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.cli.server import greeting
from app.config import Settings
from tests.support import servers
from tests.support.wire import Answer, Wire


def run(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """A start that is expected to fail."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("SYNC_", "ANKISYNCD_"))}
    env |= {"ANKISYNCD_HOST": "127.0.0.1", "ANKISYNCD_DATA_ROOT": str(folder / "data")} | settings
    command = [sys.executable, "-m", "app.cli.server"]
    return subprocess.run(
        command, env=env, cwd=servers.REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )


def test_wrong_settings_are_named_together_and_the_exit_code_is_2(tmp_path: Path) -> None:
    done = run(tmp_path, ANKISYNCD_PORT="x", ANKISYNCD_WORKERS="0")
    assert done.returncode == 2
    assert "ANKISYNCD_PORT" in done.stderr
    assert "ANKISYNCD_WORKERS" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_password_hash_that_cannot_be_used_is_a_wrong_setting(tmp_path: Path) -> None:
    done = run(tmp_path, SYNC_USER1="joe:my-secret", PASSWORDS_HASHED="1")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "my-secret" not in done.stderr


def test_a_port_that_is_taken_is_said_clearly(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(tmp_path, ANKISYNCD_PORT=port)
    assert done.returncode == 2
    assert f"port {port} of 127.0.0.1 cannot be used: Address already in use" in done.stderr


def test_a_data_folder_that_cannot_be_made_is_said_clearly(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(tmp_path, ANKISYNCD_DATA_ROOT=str(tmp_path / "file" / "data"))
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert "ANKISYNCD_DATA_ROOT" in done.stderr


def test_the_greeting_says_what_to_enter_in_anki() -> None:
    settings = Settings.from_env({"ANKISYNCD_HOST": "192.0.2.7", "ANKISYNCD_DATA_ROOT": "/srv/x"})
    assert "http://192.0.2.7:27702/" in greeting(settings)
    assert "/srv/x" in greeting(settings)
    assert "ankisyncctl user add NAME" in greeting(settings)


def test_an_ipv6_address_is_written_as_urls_need_it() -> None:
    assert "http://[::1]:27702/" in greeting(Settings.from_env({"ANKISYNCD_HOST": "::1"}))


class TestFirstStart:
    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[servers.Server]:
        started = servers.start(servers.OURS, tmp_path / "new" / "data", [], {"ANKISYNCD_WORKERS": "2"})
        yield started
        started.stop()

    def test_it_greets_warns_that_there_is_no_user_and_stops_cleanly(self, server: servers.Server) -> None:
        assert f"http://127.0.0.1:{server.port}/" in server.log
        assert server.stop() == 0
        assert server.log.count("there is no user yet") == 1
        assert "Traceback" not in server.log

    def test_the_data_is_nobody_elses(self, server: servers.Server) -> None:
        assert (server.folder / "ankisyncd").stat().st_mode & 0o777 == 0o700


def test_lost_head_records_are_said_and_no_empty_collection_is_served(tmp_path: Path) -> None:
    users = servers.make_users(1)
    extra = {"ANKISYNCD_WORKERS": "1", **servers.hashed(users)}
    first = servers.start(servers.OURS, tmp_path / "data", users, extra)
    assert ask_meta(first).status == 200
    root = first.folder / "ankisyncd"
    wait_until(lambda: any((root / "objects" / "upkeep" / "heads").glob("*")))
    first.stop()
    for path in root.glob("heads.sqlite*"):
        path.unlink()
    second = servers.start(servers.OURS, tmp_path / "data", users, extra)
    try:
        assert ask_meta(second).status == 503
        assert "the head records are missing or empty beside the stored objects" in second.log
        assert "ankisyncctl maintain --accept-loss" in second.log
    finally:
        second.stop()


def ask_meta(server: servers.Server) -> Answer:
    with Wire(server.port) as wire:
        wire.login(server.users[0].name, server.users[0].password)
        return wire.call("meta", {"v": 11, "cv": "test"})


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
