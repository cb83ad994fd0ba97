"""Quotas beside real devices: what they show, that nothing is stored, and how their users get out of it."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.conftest import Make
from tests.conformance.device import NEWEST, Device
from tests.conformance.test_closed import error_of
from tests.conformance.test_restore import Admin
from tests.support import servers
from tests.support.servers import Server, User
from tests.support.waiting import wait_until

pytestmark = pytest.mark.one_server

SETTINGS = {
    "ANKISYNCD_WORKERS": "2",
    "ANKISYNCD_QUOTA_COLLECTION_BYTES": "1100000",
    "ANKISYNCD_QUOTA_MEDIA_FILES": "5",
    "ANKISYNCD_QUOTA_MEDIA_BYTES": "20000000",
}
NOTES = 8000


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return servers.free_port()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, metrics_port: int) -> Iterator[Server]:
    folder, settings = tmp_path_factory.mktemp("quotas"), {"ANKISYNCD_METRICS_PORT": str(metrics_port)}
    with servers.serving(servers.OURS, folder / "data", 8, SETTINGS | settings) as found:
        yield found


@pytest.fixture
def admin(server: Server) -> Admin:
    found = Admin(server)
    found.env |= SETTINGS
    return found


@pytest.fixture
def device(make_device: Make, user: User) -> Device:
    device = make_device(user, NEWEST)
    device.modern_scheduler()
    device.add_notes([["one", "1"]])
    device.first_upload()
    return device


def is_counted(metrics_port: int, kind: str) -> bool:
    """Whether the metrics have a sync of this kind that was refused because of a quota."""
    series = f'ankisyncd_syncs_total{{kind="{kind}",outcome="refused",reason="QuotaExceeded"}} '
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=30) as answer:
        return series in answer.read().decode()


def stored(server: Server) -> set[Path]:
    """The contents of media."""
    return {
        path for path in (server.folder / "objects").rglob("*") if path.is_file() and "v1" not in path.parts
    }


def test_too_many_media_files_are_refused_in_words_and_not_stored(
    server: Server, metrics_port: int, admin: Admin, user: User, device: Device
) -> None:
    device.write_many("few", 5, 100)
    device.sync_media()
    before = stored(server)
    device.write_many("more", 3, 200)
    shown = error_of(device.sync_media) or ""
    assert "allows 5 media files, and these would be 8" in shown
    assert stored(server) == before
    (status,) = admin.json("status", user.name)
    assert status["media_files"] == 5
    wait_until(lambda: bool(admin.json("syncs", user.name, "--failed")))
    assert "over quota: " in admin.json("syncs", user.name, "--failed")[0]["why"]
    wait_until(lambda: is_counted(metrics_port, "media"))
    admin.run("quota", "set", user.name, "--media-files", "none")
    wait_until(lambda: error_of(device.sync_media) is None)
    assert admin.json("status", user.name)[0]["media_files"] == 8


def test_a_user_over_quota_may_delete_files_and_replace_them_by_smaller_ones(
    admin: Admin, user: User, device: Device
) -> None:
    device.write_many("few", 5, 1000)
    device.sync_media()
    admin.run("quota", "set", user.name, "--media-files", "2", "--media", "1000")
    device.write_many("extra", 1, 100)
    wait_until(lambda: "allows 2 media files" in (error_of(device.sync_media) or ""))
    device.remove_media("extra00000.bin")
    device.remove_media("few00000.bin")
    device.write_many("few", 1, 900)
    device.sync_media()


def test_a_large_file_over_quota_is_refused_before_it_is_stored(server: Server, device: Device) -> None:
    before = stored(server)
    device.write_media("large.bin", 30_000_000, 1)
    assert "allows 20 MB of media, and these would be 30 MB" in (error_of(device.sync_media) or "")
    assert stored(server) == before


def test_a_collection_over_quota_is_not_taken_and_the_device_says_why(
    metrics_port: int, admin: Admin, user: User, device: Device
) -> None:
    device.bulk_notes(NOTES, 1_600_000_000_000, "a word that makes the file large")
    device.change_schema()
    shown = error_of(device.upload) or ""
    assert shown.startswith("Your collection has ")
    assert "allows 1 MB" in shown
    assert admin.json("status", user.name)[0]["notes"] == 1
    wait_until(lambda: is_counted(metrics_port, "upload"))


def test_a_collection_that_grew_over_its_quota_comes_back_below_it_by_one_upload(
    admin: Admin, user: User, device: Device
) -> None:
    admin.run("quota", "set", user.name, "--collection", "none")
    device.bulk_notes(NOTES, 1_600_000_000_000, "a word that makes the file large")
    device.change_schema()
    wait_until(lambda: error_of(device.upload) is None)
    device.settle()
    admin.run("quota", "clear", user.name)

    def has_to_choose() -> bool:
        device.add_notes([["two", "2"]])
        return bool(device.sync() == "full")

    wait_until(has_to_choose)
    assert "Your collection has" in (error_of(device.upload) or "")
    device.execute("delete from notes")
    device.execute("delete from cards")
    device.check()
    device.upload()
    device.add_notes([["three", "3"]])
    device.settle()
    (row,) = admin.json("quota", "show", user.name)
    assert row["collection_bytes"] < row["collection_limit"] == 1_100_000


def test_quotas_are_listed_and_amounts_are_read_with_their_units(admin: Admin, user: User) -> None:
    admin.run("quota", "set", user.name, "--collection", "500M", "--media-files", "none")
    (row,) = [row for row in admin.json("quota", "show") if row["user"] == user.name]
    assert (row["collection_limit"], row["media_files_limit"], row["source"]) == (500_000_000, None, "own")
    assert row["media_bytes_limit"] == 20_000_000
    for wrong in ("5x", "-1", "0", ""):
        with pytest.raises(AssertionError, match="neither like 500M nor"):
            admin.run("quota", "set", user.name, "--collection", wrong)
    admin.run("quota", "clear", user.name)
    assert admin.json("quota", "show", user.name)[0]["source"] == "settings"
