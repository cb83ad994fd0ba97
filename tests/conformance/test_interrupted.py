"""Devices that die in the middle of a sync, and devices whose syncs cross each other.

Whatever is lost, the account stays usable at once, and nothing of either device is missing afterwards.
"""

from __future__ import annotations

import threading

import pytest

from tests.conformance.conftest import Make
from tests.conformance.device import NEWEST, ClientError, Device, assert_same, converge
from tests.support.proxy import Exchange, Fault, Proxy
from tests.support.servers import Server, User

NEWEST_ONLY = pytest.mark.parametrize("versions", [(NEWEST, NEWEST)], ids=["newest"])
# the requests of a sync in which both sides have something to send
STEPS = ("meta", "start", "applyGraves", "applyChanges", "chunk", "applyChunk", "sanityCheck2", "finish")
FAULTS = pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_ANSWER], ids=lambda f: f.value)


def change_both(a: Device, b: Device, word: str) -> None:
    """Gives each of the devices every kind of request to send."""
    doomed = a.add_notes([["doomed", word]])
    converge(a, b)
    for later, (name, device) in enumerate((("a", a), ("b", b))):
        device.add_notes(
            [[f"{word} by {name}", str(i)] for i in range(3)], deck=f"{word} {name}", tags=[word]
        )
        device.review(1, later=later)
    a.remove_notes(doomed)


def words(device: Device, word: str) -> int:
    return int(device.rows("select count() from notes where flds like ?", f"{word} by%")[0][0])


@FAULTS
@pytest.mark.parametrize("step", STEPS)
def test_a_connection_lost_at_any_request_loses_nothing(
    pair: tuple[Device, Device], server: Server, step: str, fault: Fault
) -> None:
    a, b = pair
    change_both(a, b, step)
    b.settle()
    armed = [True]

    def fate(exchange: Exchange) -> Fault:
        if exchange.method == step and armed:
            armed.clear()
            return fault
        return Fault.NONE

    with Proxy([server.port], fate=fate) as proxy:
        a.endpoint(proxy.url)
        with pytest.raises(ClientError):
            a.sync()
        assert not armed, f"the client never sent {step}: {proxy.methods}"
    # the other device is served at once, not after some time
    b.settle()
    a.endpoint(server.url)
    converge(a, b)
    assert_same(a, b)
    assert words(a, step) == 6


@NEWEST_ONLY
@pytest.mark.parametrize(
    "step",
    [pytest.param(step, marks=() if step == "finish" else pytest.mark.thorough) for step in STEPS],
)
def test_a_device_that_is_killed_at_any_request_loses_nothing(
    pair: tuple[Device, Device], server: Server, step: str
) -> None:
    a, b = pair
    change_both(a, b, step)
    b.settle()
    reached, gone = threading.Event(), threading.Event()

    def fate(exchange: Exchange) -> Fault:
        if exchange.method == step and not reached.is_set():
            reached.set()
            gone.wait(30)
        return Fault.NONE

    with Proxy([server.port], fate=fate) as proxy:
        a.endpoint(proxy.url)
        a.begin("sync")
        assert reached.wait(30)
        a.die()
        gone.set()
        proxy.settle()
    b.settle()
    a.settle()
    converge(b, a)
    assert_same(a, b)
    assert words(b, step) == 6


@NEWEST_ONLY
@pytest.mark.parametrize("step", STEPS[2:])
def test_a_sync_begun_in_the_midst_of_another_takes_over(
    pair: tuple[Device, Device], server: Server, step: str
) -> None:
    a, b = pair
    change_both(a, b, step)
    reached, resume = threading.Event(), threading.Event()

    def fate(exchange: Exchange) -> Fault:
        if exchange.method == step and not reached.is_set():
            reached.set()
            resume.wait(30)
        return Fault.NONE

    with Proxy([server.port], fate=fate) as proxy:
        a.endpoint(proxy.url)
        a.begin("sync")
        assert reached.wait(30)
        b.settle()
        resume.set()
        with pytest.raises(ClientError, match="Only one copy"):
            a.driver.receive()
        assert 409 in [exchange.status for exchange in proxy.exchanges]
    a.endpoint(server.url)
    converge(a, b)
    assert_same(a, b)
    assert words(a, step) == 6


def test_devices_that_take_turns_often_agree_in_the_end(pair: tuple[Device, Device]) -> None:
    a, b = pair
    note = a.rows("select id from notes order by id")[0][0]
    for i in range(8):
        first, second = (a, b) if i % 2 else (b, a)
        first.add_notes([[f"turn {i}", ""]], deck=f"Deck {i % 3}", tags=[f"t{i}"])
        first.set_fields(note, [f"turn {i}", "edited"], 1_800_000_000 + i)
        second.review(1, later=i)
        first.settle()
        second.settle()
    converge(a, b)
    assert_same(a, b)
    assert a.rows("select flds from notes where id=?", note) == [["turn 7\x1fedited"]]


@NEWEST_ONLY
def test_a_third_device_catches_up_with_many_syncs(
    pair: tuple[Device, Device], make_device: Make, user: User
) -> None:
    a, b = pair
    c = make_device(user)
    c.first_download()
    for i in range(30):
        a.add_notes([[f"sync {i}", ""]])
        a.settle()
    c.review(1, later=9)
    converge(c, a, b)
    converge(c, a, b)
    assert_same(a, b, c)


@FAULTS
@pytest.mark.parametrize("step", ["upload", "download"])
def test_a_one_way_sync_that_is_cut_off_can_be_repeated(
    pair: tuple[Device, Device], server: Server, step: str, fault: Fault
) -> None:
    a, b = pair
    a.add_notes([["only on", "one"]])
    a.change_schema()
    with Proxy([server.port], fate=lambda _exchange: fault) as proxy:
        a.endpoint(proxy.url)
        with pytest.raises(ClientError):
            a.call(step)
    a.endpoint(server.url)
    a.upload()
    b.first_download()
    converge(a, b)
    assert_same(a, b)


@NEWEST_ONLY
def test_an_upload_killed_halfway_leaves_the_collection_as_it_was(
    pair: tuple[Device, Device], server: Server
) -> None:
    a, b = pair
    before = b.state()
    a.bulk_notes(3000, 1_500_000_000_000, "halfway")
    a.change_schema()
    reached = threading.Event()

    def fate(exchange: Exchange) -> Fault:
        reached.set()
        return Fault.NONE

    with Proxy([server.port], fate=fate) as proxy:
        proxy.body_limit = 20_000
        a.endpoint(proxy.url)
        with pytest.raises(ClientError):
            a.upload()
        assert reached.is_set()
    b.settle()
    b.download()
    assert b.state() == before
