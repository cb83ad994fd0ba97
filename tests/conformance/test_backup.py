"""A backup is made while people sync, and restored elsewhere: real clients go on with ordinary syncs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conformance.device import Device, assert_same, converge, made_devices
from tests.support import aws, servers
from tests.support.services import PLACES, Service, local, sync_media, worked_with

ANN, BEN = servers.User("ann", "secret"), servers.User("ben", "secret")
WAYS = [
    pytest.param("local", "folder", "local", id="folder"),
    pytest.param("local", "archive.tar", "dynamodb", id="archive-to-aws"),
    pytest.param("dynamodb", "s3", "local", id="bucket-from-aws"),
]


@pytest.mark.parametrize(("source", "target", "destination"), WAYS)
def test_clients_go_on_with_what_was_backed_up_under_load(
    tmp_path: Path, source: str, target: str, destination: str
) -> None:
    for name in ("ann", "ben"):
        (tmp_path / name).mkdir()
    with ExitStack() as stack:
        service: Service = stack.enter_context(PLACES[source](tmp_path / "one", ANN, BEN))
        make = stack.enter_context(made_devices(tmp_path / "ann", ANN))
        make_bens = stack.enter_context(made_devices(tmp_path / "ben", BEN))
        if target == "s3":
            bucket = aws.new_bucket(service.aws["AWS_ENDPOINT_URL"])
            target = f"s3://{bucket}/backups"
        else:
            target = str(tmp_path / target)
        server = service.start()
        try:
            a, b, busy = make(server.url), make(server.url), make_bens(server.url)
            worked_with(a, b)
            busy.modern_scheduler()
            busy.add_notes([["first", ""]])
            busy.first_upload()
            with load(busy):
                backed_up = service.control("backup", "create", target)
            assert backed_up.returncode == 0, backed_up.stderr
            assert_restores(stack, tmp_path / "two", destination, service, target, [a, b])
        finally:
            assert server.stop() == 0


@contextmanager
def load(device: Device) -> Iterator[None]:
    """A device that syncs notes and media again and again."""
    stop, started = threading.Event(), threading.Event()

    def work() -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                device.add_notes([[f"busy {number}", ""]])
                device.settle()
                device.write_media(f"busy{number}.txt", 100, "v1")
                device.sync_media()
                started.set()
        finally:
            started.set()

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        started.wait()
        try:
            yield
        finally:
            stop.set()
        working.result()


def assert_restores(
    stack: ExitStack, folder: Path, place: str, source: Service, target: str, devices: list[Device]
) -> None:
    """Restored in another place, devices that have not synced since then notice nothing."""
    if place == "local":
        service = stack.enter_context(local(folder, ANN, BEN, extra=source.aws))
    else:
        service = stack.enter_context(PLACES[place](folder, ANN, BEN))
    done = service.control("backup", "restore", target)
    assert done.returncode == 0, done.stderr
    doctor = service.control("doctor", "--read-media")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    server = service.start()
    try:
        a, b = devices
        for device in devices:
            device.endpoint(server.url)  # still logged in
        a.add_notes([["after the restore", ""]])
        converge(a, b)
        assert_same(a, b)
        b.write_media("after.txt", 100, "v1")
        sync_media(b, a)
        assert {found[0] for found in a.media()} == {"kept.txt", "after.txt"}
    finally:
        assert server.stop() == 0
