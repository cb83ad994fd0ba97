"""Coming from the official server: the users' data is imported, and their devices notice nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.conftest import Make
from tests.conformance.device import NEWEST, Device
from tests.support import servers

pytestmark = pytest.mark.one_server


def import_from(server: servers.Server) -> subprocess.CompletedProcess[str]:
    """Run the admin command with the environment that the official server had."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "import"],
        env=servers.environment(server.users, server.folder, server.port, {}),
        cwd=servers.REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_devices_of_an_official_server_go_on_without_a_full_sync(make_device: Make, tmp_path: Path) -> None:
    base = tmp_path / "base"
    with servers.serving(servers.OFFICIAL, base, 1) as official:
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
        refused = import_from(official)
        assert refused.returncode == 1
        assert "stop that server first" in refused.stderr
    before = {path: path.read_bytes() for path in (base / user.name).rglob("*") if path.is_file()}
    done = import_from(official)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "user1: 2 notes, 2 media files\n"
    assert {path: path.read_bytes() for path in before} == before

    with servers.serving(servers.OURS, base, official.users) as ours:
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


def converge(*devices: Device) -> None:
    for _ in range(2):
        for device in devices:
            device.settle()
            device.sync_media()
