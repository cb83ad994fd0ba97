"""Real clients and three servers that share a bucket and a table, and nothing else; servers that are killed.

The whole suite runs so with `pytest tests/conformance --server=cloud`; here are the deaths.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count

import pytest

from tests.conformance.device import NEWEST, ClientError, Device, assert_same, converge
from tests.conformance.test_interrupted import STEPS, change_both, words
from tests.support import aws, servers
from tests.support.cluster import Cluster, cloud, operation_of
from tests.support.proxy import Exchange, Fault

pytestmark = [pytest.mark.one_server, pytest.mark.parametrize("versions", [(NEWEST, NEWEST)], ids=["newest"])]


NEWER_REVISION = (
    sys.executable,
    "-c",
    "import app.sync.journal as j; j.MERGE_REVISION += 1; from app.cli.server import main; main()",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with (
        aws.moto() as engine,
        cloud(folder, engine) as place,
        Cluster(folder, servers.make_users(60), place) as cluster,
    ):
        yield cluster


@pytest.fixture(autouse=True)
def nothing_planned(server: Cluster) -> Iterator[None]:
    yield
    server.proxy.fate = lambda _exchange: Fault.NONE
    server.place.wire.on_call = lambda _exchange: Fault.NONE
    server.place.wire.is_doomed = lambda _exchange: False


def killing_before(server: Cluster, steps: set[str]) -> None:
    """Before a request of these comes through, every server dies, and empty ones take their places."""

    def fate(exchange: Exchange) -> Fault:
        if exchange.method in steps:
            steps.discard(exchange.method)
            server.replace_all()
        return Fault.NONE

    server.proxy.fate = fate


def test_the_requests_of_one_sync_are_answered_by_all_servers(
    pair: tuple[Device, Device], server: Cluster
) -> None:
    a, b = pair
    change_both(a, b, "spread")
    a.write_media("shared.bin", 3000, "spread")
    a.sync_media()
    b.settle()
    converge(a, b)
    b.sync_media()
    assert_same(a, b)
    assert a.media() == b.media()
    assert words(b, "spread") == 6
    assert all("method=applyChunk" in member.log for member in server.members)


@pytest.mark.parametrize("step", ["applyChunk", "finish"])
def test_a_sync_survives_the_death_of_all_servers(
    pair: tuple[Device, Device], server: Cluster, step: str
) -> None:
    a, b = pair
    change_both(a, b, step)
    b.settle()
    killing_before(server, {step})
    a.settle()
    converge(b, a)
    assert_same(a, b)
    assert words(b, step) == 6


@pytest.mark.slow
def test_a_sync_survives_the_death_of_all_servers_before_every_request(
    pair: tuple[Device, Device], server: Cluster
) -> None:
    a, b = pair
    change_both(a, b, "deaths")
    b.settle()
    steps = set(STEPS)
    killing_before(server, steps)
    a.settle()
    assert not steps, f"never sent: {steps}"
    converge(b, a)
    assert_same(a, b)
    assert words(b, "deaths") == 6


class Killer:
    """Kills the server that makes the nth call to AWS from now, before or after the call lands."""

    def __init__(self, server: Cluster, nth: int, *, landed: bool) -> None:
        self.server, self.left, self.landed = server, nth, landed
        self.killed: int | None = None
        self.call = ""
        server.place.wire.on_call = self.begin
        server.place.wire.is_doomed = self.end

    def begin(self, _exchange: Exchange) -> Fault:
        self.left -= 1
        if self.left == 0 and not self.landed:
            self.kill(_exchange)
            return Fault.LOSE_REQUEST
        return Fault.NONE

    def end(self, exchange: Exchange) -> bool:
        if self.left == 0 and self.landed and self.killed is None:
            self.kill(exchange)
            return True
        return False

    def kill(self, exchange: Exchange) -> None:
        self.call = operation_of(exchange)
        self.killed = self.server.kill_busy()


def sync_and_die(a: Device, b: Device, server: Cluster, nth: int, *, landed: bool) -> Killer:
    """A sync of `a` in which the server dies at its nth call; all that was promised is looked at."""
    word = f"call {nth} {landed}"
    change_both(a, b, word)
    b.settle()
    killer = Killer(server, nth, landed=landed)
    if killer_missed(a, killer):
        return killer
    assert killer.killed is not None
    server.replace(killer.killed)
    b.settle()
    seen = words(b, word)
    # whole or not at all; it can be there although its client was not told
    assert seen in {3, 6}, (word, seen)
    a.settle()
    converge(b, a)
    assert_same(a, b)
    assert words(b, word) == 6
    return killer


def killer_missed(a: Device, killer: Killer) -> bool:
    """Whether the sync made fewer calls, and so succeeded."""
    try:
        a.settle()
    except ClientError:
        return False
    assert killer.killed is None, f"{killer.call} failed, and the client was told otherwise"
    return True


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("landed", [False, True], ids=["before", "after"])
def test_a_server_that_dies_at_any_call_to_aws_leaves_a_whole_sync_or_none(
    pair: tuple[Device, Device], server: Cluster, *, landed: bool
) -> None:
    a, b = pair
    calls = []
    for nth in count(1):
        killer = sync_and_die(a, b, server, nth, landed=landed)
        if killer.killed is None:
            break
        calls.append(killer.call)
    assert calls.count("UpdateItem") >= 5, calls
    assert "PUT" in calls


@pytest.mark.parametrize(("nth", "landed"), [(7, False), (7, True)], ids=["before", "after"])
def test_a_server_that_dies_in_the_midst_of_a_request_does_no_harm(
    pair: tuple[Device, Device], server: Cluster, nth: int, *, landed: bool
) -> None:
    assert sync_and_die(*pair, server, nth, landed=landed).killed is not None


def test_servers_of_different_merge_revisions_do_not_carry_on_each_others_syncs(
    pair: tuple[Device, Device], server: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    change_both(a, b, "revision")
    b.settle()
    route = server.proxy.route
    with monkeypatch.context() as patch:
        patch.setitem(servers.COMMANDS, servers.OURS, NEWER_REVISION)
        server.replace(0)
    try:
        server.proxy.route = lambda exchange: 0 if exchange.method == "applyChunk" else 1
        with pytest.raises(ClientError, match="Only one copy"):
            a.sync()
        server.proxy.route = lambda _exchange: 0
        a.settle()
    finally:
        server.proxy.route = route
        server.replace(0)
    converge(b, a)
    assert_same(a, b)
    assert words(b, "revision") == 6
