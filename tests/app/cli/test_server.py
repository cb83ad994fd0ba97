"""`ankisyncd` as an operator meets it: what it says when it starts, and why when it does not."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cli.folders import use_folder
from app.cli.server import StartError, _port_faults, connection_limits, greeting, prepare
from app.config import Settings
from tests.support import servers
from tests.support.waiting import wait_until
from tests.support.wire import Answer, Wire, media_zip


def run(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """A start that is expected to fail."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("SYNC_", "ANKISYNCD_"))}
    env |= {"ANKISYNCD_HOST": "127.0.0.1", "ANKISYNCD_DATA_ROOT": str(folder / "data")} | settings
    command = [sys.executable, "-m", "app.cli.server"]
    return subprocess.run(
        command,
        env=env,
        cwd=servers.REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
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


@pytest.mark.parametrize("variable", ["ANKISYNCD_PORT", "ANKISYNCD_METRICS_PORT"])
def test_a_port_that_is_taken_is_said_clearly(tmp_path: Path, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(tmp_path, **{variable: port})
    assert done.returncode == 2
    assert f"port {port} of 127.0.0.1 cannot be used: Address already in use ({variable}" in done.stderr


def test_a_data_folder_that_cannot_be_made_is_said_clearly(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(tmp_path, ANKISYNCD_DATA_ROOT=str(tmp_path / "file" / "data"))
    assert done.returncode == 2
    assert "cannot be used: Not a directory" in done.stderr
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


@pytest.mark.parametrize(
    ("host", "cure"),
    [
        ("no.such.host.invalid", "ANKISYNCD_HOST must be"),
        ("192.0.2.77", "ANKISYNCD_HOST must be"),
        ("0.0.0.0:8080", "ANKISYNCD_HOST must be"),
        ("http://0.0.0.0", "ANKISYNCD_HOST must be"),
        ("x" * 70, "ANKISYNCD_HOST must be"),
    ],
)
def test_a_wrong_host_is_one_line_that_names_it(tmp_path: Path, host: str, cure: str) -> None:
    done = run(tmp_path, ANKISYNCD_HOST=host)
    assert done.returncode == 2
    assert cure in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2


def test_a_machine_without_ipv6_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(family: int, *_words: object) -> object:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", without)
    (fault,) = _port_faults("::", 27702)
    assert "ANKISYNCD_HOST must be 0.0.0.0" in fault


class TestFolder:
    """What the workers will do with the data folder is done before they are started."""

    def test_what_is_there_becomes_its_owners_alone_and_other_files_stay(self, tmp_path: Path) -> None:
        for name in ("objects", "spool", "ahead", "mine"):
            (tmp_path / name).mkdir(mode=0o755)
        for name in ("heads.sqlite", "users.sqlite-wal", "ahead/1", "notes.txt"):
            (tmp_path / name).write_bytes(b"")
            (tmp_path / name).chmod(0o644)
        tmp_path.chmod(0o755)
        use_folder(tmp_path)
        modes = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
        assert modes == {
            "objects": 0o700, "spool": 0o700, "ahead": 0o700, "mine": 0o755, "ahead/1": 0o600,
            "heads.sqlite": 0o600, "users.sqlite-wal": 0o600, "notes.txt": 0o644,
        }  # fmt: skip
        assert tmp_path.stat().st_mode & 0o777 == 0o755

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to others, and become another")
    def test_files_of_another_owner_are_one_line_with_the_cure(self, tmp_path: Path) -> None:
        data = tmp_path / "data"
        data.mkdir()
        (data / "heads.sqlite").write_bytes(b"")
        (data / "heads.sqlite").chmod(0o600)
        os.chown(data, 54321, 54321)
        for folder in (tmp_path, *tmp_path.parents):
            if folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
                folder.chmod(0o755)
        settings = Settings.from_env({"ANKISYNCD_DATA_ROOT": str(data), "ANKISYNCD_HOST": "127.0.0.1"})
        os.seteuid(54321)
        try:
            with pytest.raises(StartError) as caught:
                prepare(settings)
        finally:
            os.seteuid(0)
        (line,) = str(caught.value).splitlines()[1:]
        assert "heads.sqlite" in line
        assert "uid 54321" in line
        assert "ANKISYNCD_DATA_ROOT" in line

    def test_a_full_disk_is_one_line_with_the_cure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StartError) as caught:
            prepare(Settings.from_env({"ANKISYNCD_DATA_ROOT": str(tmp_path), "ANKISYNCD_HOST": "127.0.0.1"}))
        assert "No space left on device (free some space, or choose another by ANKISYNCD" in str(caught.value)


def test_a_worker_that_cannot_start_says_why_and_the_server_ends(tmp_path: Path) -> None:
    """Files that are there, and writable, but no databases."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "heads.sqlite").write_bytes(b"no database at all" * 1000)
    done = run(tmp_path, ANKISYNCD_PORT=str(servers.free_port()))
    assert done.returncode != 0
    assert "a worker cannot start: " in done.stdout
    assert done.stdout.count("a worker cannot start: ") <= 4  # workers are started together


def test_everything_that_is_made_is_for_the_owner_alone(tmp_path: Path) -> None:
    with servers.serving(servers.OURS, tmp_path / "data", 1, {"ANKISYNCD_WORKERS": "1"}) as server:
        user = server.next_user()
        with Wire(server.port, skey="x") as wire:
            wire.login(user.name, user.password)
            assert wire.call("uploadChanges", media_zip([("a", b"a"), ("b", b"b" * 3_000_000)])).ok
        folder = server.folder / "ankisyncd"
        assert {path.name for path in folder.rglob("*") if path.stat().st_mode & 0o077} == set()


@pytest.mark.parametrize(
    ("env", "per_address", "counts_local"),
    [
        ({}, 512, False),
        ({"ANKISYNCD_IP_HEADER": "XRealIp"}, 0, False),
        ({"ANKISYNCD_CONNECTIONS_PER_ADDRESS": "0"}, 0, True),
        ({"ANKISYNCD_CONNECTIONS_PER_ADDRESS": "9", "ANKISYNCD_IP_HEADER": "XRealIp"}, 9, True),
    ],
)
def test_the_limit_of_an_address_is_off_behind_a_proxy(
    env: dict[str, str], per_address: int, *, counts_local: bool
) -> None:
    limits = connection_limits(Settings.from_env(env))
    assert (limits.per_address, limits.counts_local) == (per_address, counts_local)


@pytest.mark.parametrize(
    ("allowed", "most"), [(1024, 576), (20_000, 14_808), (1_000_000, 16_384), (-1, 16_384)]
)
def test_connections_follow_the_descriptors_that_are_allowed(
    monkeypatch: pytest.MonkeyPatch, allowed: int, most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (allowed, allowed))
    assert connection_limits(Settings.from_env({})).most == most


def test_a_service_that_was_started_with_few_descriptors_takes_what_it_may() -> None:
    code = (
        "import resource; from app.cli.server import raise_descriptors;"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1];"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)); raise_descriptors();"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, 65536), hard)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=servers.REPOSITORY, timeout=60)


def test_standard_output_that_is_not_utf_8_does_not_stop_the_start(tmp_path: Path) -> None:
    extra = {"ANKISYNCD_WORKERS": "1", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    with servers.serving(servers.OURS, tmp_path / "d\u00e4ta", 0, extra) as server:
        assert "d\u00e4ta" in server.log


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
