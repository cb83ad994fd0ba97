"""The server as processes: any worker serves any request, and any of them may die."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conformance.conftest import Make
from tests.conformance.device import ClientError, Device, assert_same, converge
from tests.support import servers
from tests.support.proxy import Exchange, Fault, Proxy

pytestmark = pytest.mark.one_server

SETTINGS = {"ANKISYNCD_WORKERS": "3"}
STEPS = ("start", "applyGraves", "applyChanges", "chunk", "applyChunk", "sanityCheck2", "finish")


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[servers.Server]:
    with servers.serving(servers.OURS, tmp_path / "data", 2, SETTINGS) as server:
        yield server


@pytest.fixture
def devices(own_server: servers.Server, make_device: Make) -> tuple[Device, Device]:
    """Two devices in sync, each with something to send and to delete."""
    user = own_server.next_user()
    a, b = make_device(user, url=own_server.url), make_device(user, url=own_server.url)
    notes = a.add_notes([[f"note {i}", ""] for i in range(5)])
    a.first_upload()
    b.first_download()
    converge(a, b)
    a.remove_notes(notes[:1])
    a.add_notes([["by a", ""]], deck="Of A", tags=["a"])
    a.review(1)
    b.add_notes([["by b", ""]], deck="Of B", tags=["b"])
    b.settle()
    return a, b


def workers(server: servers.Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def kill_workers(server: servers.Server) -> None:
    for worker in workers(server):
        os.kill(worker.pid, signal.SIGKILL)


def before(step: str, act: Callable[[], None]) -> Callable[[Exchange], Fault]:
    """Act once, when a request of this kind has arrived and has not been passed on."""
    waiting = [act]

    def fate(exchange: Exchange) -> Fault:
        if exchange.method == step and waiting:
            waiting.pop()()
        return Fault.NONE

    return fate


def test_the_requests_of_a_sync_may_go_to_any_worker(
    own_server: servers.Server, devices: tuple[Device, Device]
) -> None:
    a, b = devices
    assert len(workers(own_server)) == 3
    # the proxy opens a connection for each request, and the workers take them as they come
    with Proxy([own_server.port]) as proxy:
        for device in devices:
            device.endpoint(proxy.url)
        for i in range(10):
            a.add_notes([[f"spread {i}", ""]])
            b.review(1, later=i)
            a.write_media(f"spread{i}.txt", 100, "x")
            converge(a, b)
            for device in (a, b):
                device.sync_media()
    assert_same(a, b)
    assert a.media() == b.media()
    assert 409 not in [exchange.status for exchange in proxy.exchanges]


@pytest.mark.parametrize(
    "step", [pytest.param(s, marks=() if s == "applyChunk" else pytest.mark.slow) for s in STEPS]
)
def test_a_sync_outlives_the_death_of_all_workers(
    own_server: servers.Server, devices: tuple[Device, Device], step: str
) -> None:
    a, b = devices
    with Proxy([own_server.port], fate=before(step, lambda: kill_workers(own_server))) as proxy:
        a.endpoint(proxy.url)
        a.settle()
        assert proxy.methods.count("start") == 1
    b.settle()
    assert_same(a, b)


@pytest.mark.slow
def test_a_media_sync_outlives_the_death_of_all_workers(
    own_server: servers.Server, devices: tuple[Device, Device]
) -> None:
    a, b = devices
    a.write_many("file", 100, 500)
    for step, device in (("uploadChanges", a), ("downloadFiles", b)):
        with Proxy([own_server.port], fate=before(step, lambda: kill_workers(own_server))) as proxy:
            device.endpoint(proxy.url)
            device.sync_media()
    assert a.media() == b.media()


@pytest.mark.parametrize(
    "step", [pytest.param(s, marks=() if s == "finish" else pytest.mark.slow) for s in STEPS]
)
def test_a_server_that_was_cut_off_in_a_sync_comes_up_whole(
    own_server: servers.Server, devices: tuple[Device, Device], tmp_path: Path, step: str
) -> None:
    a, b = devices
    with Proxy([own_server.port], fate=before(step, own_server.kill)) as proxy:
        a.endpoint(proxy.url)
        with pytest.raises(ClientError):
            a.sync()
    with servers.serving(servers.OURS, own_server.folder, own_server.users, SETTINGS) as again:
        for device in devices:
            device.endpoint(again.url)
        converge(a, b)
        assert_same(a, b)


@pytest.mark.thorough
def test_a_stopped_server_goes_on_where_it_was(
    own_server: servers.Server, devices: tuple[Device, Device]
) -> None:
    a, b = devices
    a.settle()
    a.write_media("kept.txt", 100, "x")
    a.sync_media()
    assert own_server.stop() == 0
    with servers.serving(servers.OURS, own_server.folder, own_server.users) as again:
        # the keys that the devices hold stay valid
        for device in devices:
            device.endpoint(again.url)
        b.settle()
        b.sync_media()
        assert_same(a, b)
        assert b.media() == a.media()
