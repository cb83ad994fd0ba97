"""Readiness falls with a service that is away, says which and why, and returns with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.ops.readiness import Readiness, Service
from tests.app.ops.scrape import get, ready, scrape
from tests.support import aws, servers
from tests.support.cluster import Place, cloud, operation_of
from tests.support.proxy import Exchange, Fault
from tests.support.userpool import UserPool
from tests.support.waiting import wait_until
from tests.support.wire import Wire

ALL = {"heads", "objects", "keys", "disk", "users"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with aws.moto() as engine, cloud(tmp_path_factory.mktemp("init"), engine) as place:
        pool = UserPool(engine)
        pool.add("alice")
        place.extra = pool.settings
        yield place


@pytest.fixture(scope="module")
def private_port() -> int:
    return servers.free_port()


@pytest.fixture(scope="module")
def server(
    place: Place, private_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[servers.Server]:
    extra = place.settings | {"ANKISYNCD_METRICS_PORT": str(private_port)}
    with servers.serving(servers.OURS, tmp_path_factory.mktemp("ready") / "data", [], extra) as server:
        yield server


def is_of(service: str, exchange: Exchange) -> bool:
    """Whether a call of AWS is one of this service's checks."""
    operation = operation_of(exchange)
    if service == "users":
        return "InitiateAuth" in operation
    return operation == {"heads": "GetItem", "objects": "HEAD"}[service]


@pytest.mark.parametrize("service", ["heads", "objects", "users"])
def test_readiness_falls_with_a_service_and_returns_with_it(
    server: servers.Server, place: Place, private_port: int, service: str
) -> None:
    wait_until(lambda: ready(server.port) == (200, {"ready": True, "services": dict.fromkeys(ALL, "ok")}))
    place.wire.on_call = lambda call: Fault.LOSE_REQUEST if is_of(service, call) else Fault.NONE
    try:
        wait_until(lambda: ready(server.port)[0] == 503)
        assert get(server.port, "/health")[0] == 200
        told = ready(server.port)[1]["services"]
        assert told[service] != "ok" and " " not in told[service]
        status, found = ready(private_port)
        assert status == 503
        assert len(found["services"][service]) > len(told[service])
        assert scrape(private_port)["ankisyncd_ready", f"service={service}"] == 0
    finally:
        place.wire.on_call = lambda _call: Fault.NONE
    wait_until(lambda: ready(server.port)[0] == 200)
    assert scrape(private_port)["ankisyncd_ready", f"service={service}"] == 1
    assert f"not ready: {service}:" in server.log
    assert f"ready again: {service}" in server.log


def test_a_login_while_the_pool_is_away_is_counted_as_such(
    server: servers.Server, place: Place, private_port: int
) -> None:
    place.wire.on_call = lambda call: Fault.LOSE_REQUEST if is_of("users", call) else Fault.NONE
    try:
        with Wire(server.port) as wire:
            assert wire.call("hostKey", {"u": "alice", "p": "any"}).status == 503
            assert wire.call("meta", {"v": 11, "cv": "tests"}).status == 403
    finally:
        place.wire.on_call = lambda _call: Fault.NONE
    found = scrape(private_port)
    assert found["ankisyncd_logins_total", "outcome=away"] == 1
    assert any(key[0] == "ankisyncd_aws_errors_total" and key[3] == "service=cognito-identity-provider"
               for key in found)  # fmt: skip


def test_a_server_starts_while_the_pool_is_away_and_is_ready_once_it_is_back(
    place: Place, tmp_path: Path
) -> None:
    place.wire.on_call = lambda call: Fault.LOSE_REQUEST if is_of("users", call) else Fault.NONE
    try:
        with servers.serving(servers.OURS, tmp_path / "data", [], place.settings) as server:
            assert "is away" in server.log and "nobody can log in" in server.log
            status, found = ready(server.port)
            assert (status, found["services"]["heads"]) == (503, "ok")
            assert found["services"]["users"] == "ServiceUnavailable"
            place.wire.on_call = lambda _call: Fault.NONE
            wait_until(lambda: ready(server.port)[0] == 200)
    finally:
        place.wire.on_call = lambda _call: Fault.NONE


def test_a_disk_that_cannot_be_written_is_not_ready(tmp_path: Path) -> None:
    with servers.serving(servers.OURS, tmp_path / "data", 1, {"ANKISYNCD_WORKERS": "1"}) as server:
        wait_until(lambda: ready(server.port)[0] == 200)
        (work,) = (path for path in (tmp_path / "data" / "ankisyncd" / "spool").iterdir() if path.is_dir())
        (work / "ready").unlink()
        (work / "ready").mkdir()  # for root, who may write everywhere
        wait_until(lambda: ready(server.port) == (503, {"ready": False, "services": {
            "heads": "ok", "objects": "ok", "keys": "ok", "disk": "IsADirectoryError"}}))  # fmt: skip
        (work / "ready").rmdir()
        wait_until(lambda: ready(server.port)[0] == 200)


def test_services_are_asked_once_in_a_while_and_not_by_two_at_a_time() -> None:
    now_s, asked = 0.0, []
    begun, go_on = threading.Event(), threading.Event()

    def look() -> str | None:
        asked.append(now_s)
        if len(asked) == 2:
            begun.set()
            assert go_on.wait(30)
        return None if len(asked) < 2 else "it is away"

    readiness = Readiness({"store": Service(look, 5.0)}, lambda: now_s)
    assert readiness.look() == readiness.look() == {"store": None}
    assert len(asked) == 1
    now_s = 5.0
    slow = threading.Thread(target=readiness.look)
    slow.start()
    assert begun.wait(30)
    assert readiness.look() == {"store": None}  # as it was
    go_on.set()
    slow.join()
    assert readiness.look()["store"].reason == "it is away"
    assert len(asked) == 2
