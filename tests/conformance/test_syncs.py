"""`ankisyncctl syncs` beside real devices: what was done by which device, and why a sync failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conformance.conftest import Make
from tests.conformance.device import NEWEST, ClientError, Device
from tests.conformance.test_restore import Admin
from tests.support.cluster import Cluster
from tests.support.servers import Server, User
from tests.support.wire import Wire

Row = dict[str, Any]
DEADLINE_S = 60.0


@pytest.fixture
def admin(server: Server | Cluster) -> Admin:
    return Admin(server)


@pytest.fixture
def device(make_device: Make, user: User) -> Device:
    device = make_device(user, NEWEST)
    device.modern_scheduler()
    device.add_notes([["one", "1"]])
    device.first_upload()
    return device


@pytest.fixture
def wire(server: Server | Cluster, user: User) -> Iterator[Wire]:
    with Wire(server.port, skey="x") as opened:
        opened.login(user.name, user.password)
        yield opened


def failed(admin: Admin, user: User, matches: Callable[[Row], bool]) -> Row:
    """The failure that matches; it is written beside the request, so it may come a moment later."""
    end = time.monotonic() + DEADLINE_S
    while True:
        rows = admin.json("syncs", user.name, "--failed")
        if found := [row for row in rows if matches(row)]:
            assert len(found) == 1, found
            return found[0]
        assert time.monotonic() < end, rows


def test_what_was_done_is_told_with_the_device_that_did_it(
    admin: Admin, user: User, device: Device, make_device: Make
) -> None:
    other = make_device(user, NEWEST)
    other.first_download()
    other.add_notes([["two", "2"]])
    other.settle()
    device.settle()
    device.write_many("file", 2, 100)
    device.sync_media()
    rows = admin.json("syncs", user.name)
    keys = [row["id"] for row in admin.json("key", "list", user.name)]
    done = [(row["outcome"], keys.index(row["key"])) for row in rows]
    assert ("uploaded one way", 0) in done
    assert ("downloaded one way", 1) in done
    assert ("synced", 1) in done
    assert ("media sent", 0) in done
    assert all(row["client"] and row["why"] is None for row in rows)
    assert [row["time_ms"] for row in rows] == sorted(row["time_ms"] for row in rows)


def test_a_failed_sanity_check_is_told_with_the_counts_of_both_sides(
    admin: Admin, user: User, device: Device
) -> None:
    assert len(device.review(1)) == 1
    device.settle()
    device.execute("delete from revlog")
    device.add_notes([["two", "2"]])
    with pytest.raises(ClientError):
        device.sync()
    row = failed(admin, user, lambda row: row["step"] == "sanityCheck2")
    assert "the device has 2 cards, 2 notes, 0 reviews" in row["why"]
    assert "the server has 2 cards, 2 notes, 1 reviews" in row["why"]
    (key,) = admin.json("key", "list", user.name)
    assert row["key"] == key["id"]


def test_a_refused_upload_is_told_with_the_reason_that_the_device_does_not_show(
    admin: Admin, user: User, wire: Wire
) -> None:
    assert wire.upload(b"junk").status == 200
    row = failed(admin, user, lambda row: row["step"] == "upload")
    assert (row["database"], row["outcome"]) == ("collection", "failed (200)")
    assert row["why"].startswith("upload refused: ")


def test_a_sync_that_another_device_took_over_is_told_so(
    server: Server | Cluster, admin: Admin, user: User, device: Device, wire: Wire
) -> None:
    assert wire.call("start", {"minUsn": 0, "lnewer": False}).status == 200
    device.add_notes([["two", "2"]])
    device.settle()
    assert wire.call("applyChunk", {"chunk": {"done": True}}).status == 409
    row = failed(admin, user, lambda row: row["step"] == "applyChunk")
    assert "another device began to sync meanwhile" in row["why"]
    assert row["outcome"] == "failed (409)"


def test_a_refused_batch_of_media_is_told(admin: Admin, user: User, wire: Wire) -> None:
    assert wire.call("uploadChanges", b"junk").status == 400
    row = failed(admin, user, lambda row: row["step"] == "uploadChanges")
    assert (row["database"], row["outcome"]) == ("media", "failed (400)")
    assert "zip" in row["why"]


def test_a_wrong_host_key_leaves_no_trace_with_anybody(
    server: Server | Cluster, admin: Admin, user: User, device: Device
) -> None:
    (row,) = [row for row in admin.json("status") if row["name"] == user.name]
    with Wire(server.port, hkey=f"invented.{row['id']}", skey="x") as stranger:
        assert stranger.call("applyChunk", {"chunk": {"done": True}}).status == 403
    device.settle()
    assert admin.json("syncs", user.name, "--failed") == []


def test_a_running_sync_is_seen_and_ended(admin: Admin, user: User, device: Device, wire: Wire) -> None:
    device.settle()
    assert wire.call("start", {"minUsn": 0, "lnewer": False}).status == 200
    assert wire.call("applyChunk", {"chunk": {"done": False}}).status == 200
    (row,) = [row for row in admin.json("session", "list") if row["user"] == user.name]
    assert (row["step"], row["messages"]) == ("applyChunk", 1)
    assert row["key"] in {each["id"] for each in admin.json("key", "list", user.name)}
    (status,) = admin.json("status", user.name)
    assert (status["syncing_step"], status["syncing_since_ms"]) == ("applyChunk", row["started_ms"])
    assert user.name in admin.run("session", "end", user.name)
    assert [row for row in admin.json("session", "list") if row["user"] == user.name] == []
    assert wire.call("applyChunk", {"chunk": {"done": True}}).status == 409
    with pytest.raises(AssertionError, match="no sync of"):
        admin.run("session", "end", user.name)
    device.add_notes([["two", "2"]])
    device.settle()
