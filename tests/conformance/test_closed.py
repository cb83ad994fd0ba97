"""Maintenance mode beside real devices: what they show, and that they go on afterwards as before."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator
from http import HTTPStatus

import pytest
import zstandard

from tests.conformance.conftest import Make
from tests.conformance.device import NEWEST, ClientError, Device
from tests.conformance.test_restore import Admin
from tests.support import aws, servers
from tests.support.cluster import Cluster, cloud
from tests.support.waiting import wait_until

pytestmark = pytest.mark.one_server

TEXT = "Back at 15:00: the disks are being moved. Bitte später!"
Place = servers.Server | Cluster


@pytest.fixture(scope="module", params=["one machine", "dynamodb", "s3"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("closed")
    if request.param == "one machine":
        with servers.serving(servers.OURS, folder / "data", 8, {"ANKISYNCD_WORKERS": "2"}) as server:
            yield server
        return
    with (
        aws.moto() as engine,
        cloud(folder, engine, request.param) as found,
        Cluster(folder, servers.make_users(8), found, size=2) as cluster,
    ):
        yield cluster


@pytest.fixture
def admin(place: Place) -> Iterator[Admin]:
    admin = Admin(place)
    yield admin
    admin.run("maintenance", "off")
    wait_for_all(lambda: status_of(place) == HTTPStatus.FORBIDDEN)


@pytest.fixture
def device(place: Place, admin: Admin, make_device: Make) -> Device:
    device = make_device(place.next_user(), NEWEST, place.url)
    device.modern_scheduler()
    device.add_notes([["one", "1"]])
    device.first_upload()
    return device


def status_of(place: Place) -> int:
    """The answer to a request with an unknown host key."""
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=30)
    with contextlib.closing(connection):
        header = json.dumps({"v": 11, "k": "none", "c": "", "s": "s"})
        connection.request("POST", "/sync/chunk", zstandard.compress(b"{}"), {"anki-sync": header})
        return connection.getresponse().status


def error_of(action: Callable[[], object]) -> str | None:
    """What the user of a device is shown; None if nothing is wrong."""
    try:
        action()
    except ClientError as error:
        return error.message
    return None


def wait_for_all(holds: Callable[[], bool]) -> None:
    """Workers look for orders every few seconds; two in a row may be two different ones."""
    wait_until(lambda: holds() and holds() and holds())


def close(admin: Admin, place: Place) -> None:
    admin.run("maintenance", "on", TEXT)
    wait_for_all(lambda: status_of(place) == HTTPStatus.SERVICE_UNAVAILABLE)


def reopen(admin: Admin, place: Place) -> None:
    admin.run("maintenance", "off")
    wait_for_all(lambda: status_of(place) == HTTPStatus.FORBIDDEN)


def test_a_closed_service_tells_devices_why_and_they_stay_logged_in(
    place: Place, admin: Admin, device: Device
) -> None:
    device.add_notes([["two", "2"]])
    device.write_many("file", 3, 100)
    close(admin, place)
    assert error_of(device.sync) == TEXT
    assert error_of(device.sync_media) == TEXT
    reopen(admin, place)
    device.settle()
    device.sync_media()
    assert max(row["notes"] for row in admin.json("status")) == 2


def test_an_upload_that_comes_while_the_service_is_closed_changes_nothing(
    place: Place, admin: Admin, device: Device
) -> None:
    device.add_notes([["two", "2"]])
    close(admin, place)
    assert "encountered a problem" in (error_of(device.upload) or "")
    reopen(admin, place)
    assert min(row["notes"] for row in admin.json("status") if row["changed_ms"]) == 1


def test_nobody_logs_in_to_a_closed_service(place: Place, admin: Admin, make_device: Make) -> None:
    close(admin, place)
    user = place.next_user()
    with pytest.raises(ClientError, match="encountered a problem"):
        make_device(user, NEWEST, place.url)
    reopen(admin, place)
    make_device(user, NEWEST, place.url)


def test_status_says_since_when_and_what_devices_are_told(admin: Admin) -> None:
    assert "open" in admin.run("maintenance", "status")
    admin.run("maintenance", "on", "first")
    (first,) = admin.json("maintenance", "status")
    admin.run("maintenance", "on", TEXT)
    (row,) = admin.json("maintenance", "status")
    assert row == {"state": "closed", "since_ms": first["since_ms"], "text": TEXT}


def test_maintenance_of_the_store_does_not_stumble_over_the_order(admin: Admin, device: Device) -> None:
    admin.run("maintenance", "on", TEXT)
    admin.run("maintain", "--full")
    admin.run("doctor")
    assert ".store" not in admin.run("status")
