"""What an operator does to a user beside real devices: they go on, and lose nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.conformance.conftest import Make
from tests.conformance.device import NEWEST, ClientError, Device, assert_same, converge
from tests.conformance.test_restore import Admin
from tests.support.cluster import Cluster
from tests.support.servers import Server, User

NEWEST_ONLY = pytest.mark.parametrize("versions", [(NEWEST, NEWEST)], ids=["newest"])


@pytest.fixture
def operator(server: Server | Cluster) -> Admin:
    return Admin(server)


def sync_media_until_agreed(*devices: Device) -> None:
    """A media sync that finds other counts fails once; the next one compares all files."""
    for _ in range(3):
        for device in devices:
            with contextlib.suppress(ClientError):
                device.sync_media()
    for device in devices:
        device.sync_media()


@NEWEST_ONLY
def test_after_a_reset_of_the_collection_a_device_uploads_and_media_stay(
    pair: tuple[Device, Device], operator: Admin, user: User
) -> None:
    a, b = pair
    a.write_media("kept.txt", 100, "v1")
    for device in (a, b):
        device.sync_media()
    expected = a.state()
    operator.run("user", "reset", user.name, "--collection", "--yes")
    assert a.sync() == "upload"
    a.upload()
    assert b.sync() == "full"
    b.download()
    assert b.state()["notes"] == expected["notes"]
    assert_same(a, b)
    b.add_notes([["and on it goes", ""]])
    converge(b, a)
    b.sync_media()
    assert [entry[0] for entry in b.media()] == ["kept.txt"]


@NEWEST_ONLY
def test_after_a_reset_of_the_media_devices_upload_theirs_and_lose_none(
    pair: tuple[Device, Device], operator: Admin, user: User, make_device: Make
) -> None:
    a, b = pair
    a.write_media("one.txt", 100, "v1")
    a.write_media("two.bin", 3_000_000, "v1")
    for device in (a, b):
        device.sync_media()
    expected = a.media()
    operator.run("user", "reset", user.name, "--media", "--yes")
    sync_media_until_agreed(a, b)
    assert a.media() == b.media() == expected
    fresh = make_device(user)
    fresh.first_download()
    fresh.sync_media()
    assert fresh.media() == expected
    a.settle()
    b.settle()


@pytest.mark.one_server
@NEWEST_ONLY
def test_after_a_rebuild_devices_send_again_what_was_damaged(
    pair: tuple[Device, Device], server: Server, operator: Admin, user: User, make_device: Make
) -> None:
    if not isinstance(server, Server):
        pytest.skip("the files of one machine are damaged")
    a, b = pair
    a.write_media("damaged.bin", 3_000_000, user.name)
    a.write_media("lost.txt", 100, user.name)
    a.write_media("sound.txt", 100, user.name)
    for device in (a, b):
        device.sync_media()
    expected = a.media()
    blobs = sorted((server.folder / "ankisyncd" / "objects" / "blobs").iterdir(), key=modified)[-3:]
    large = next(path for path in blobs if path.stat().st_size == 3_000_000)
    large.chmod(0o600)
    large.write_bytes(bytes(3_000_000))
    assert "not what was uploaded" in operator.run("media", "rebuild", user.name, "--dry-run")
    operator.run("media", "rebuild", user.name, "--yes")
    sync_media_until_agreed(a, b)
    fresh = make_device(user)
    fresh.first_download()
    fresh.sync_media()
    assert a.media() == b.media() == fresh.media() == expected


def modified(path: Path) -> float:
    return path.stat().st_mtime


@NEWEST_ONLY
def test_an_export_is_imported_by_a_client(
    pair: tuple[Device, Device], operator: Admin, user: User, make_device: Make, tmp_path: Path
) -> None:
    a, _ = pair
    a.write_media("picture.bin", 200_000, "v1")
    a.sync_media()
    operator.run("user", "export", user.name, str(tmp_path / "out"))
    other = make_device(user)
    other.import_package(str(tmp_path / "out" / "collection.colpkg"))
    assert other.state()["notes"] == a.state()["notes"]
    assert [entry[:2] for entry in other.media()] == [entry[:2] for entry in a.media()]


@pytest.mark.one_server
@NEWEST_ONLY
def test_a_purged_user_of_the_environment_begins_anew(
    pair: tuple[Device, Device], server: Server, operator: Admin, user: User
) -> None:
    if not isinstance(server, Server):
        pytest.skip("several servers remember keys for a minute")
    a, _ = pair
    operator.run("user", "purge", user.name, "--yes", "--at-once")
    with pytest.raises(ClientError):
        a.sync()
    a.log_in(server.url, user)
    assert a.sync() == "upload"
    a.upload()
    a.add_notes([["and on it goes", ""]])
    a.settle()
