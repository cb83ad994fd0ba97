"""Which connections make room for others, by an injected clock."""

from __future__ import annotations

import time

import pytest

from app.http.server.connections import (
    GRACE_S,
    HEAD_S,
    LEAST_RATE,
    UNKNOWN_BYTES,
    UNKNOWN_RATE,
    Connection,
    ConnectionLimits,
    ConnectionReader,
    ConnectionTable,
    address_of,
)


class Table(ConnectionTable):
    """With a clock of its own, and a list of what was ended."""

    def __init__(self, most: int = 3, per_address: int = 0, *, counts_local: bool = True) -> None:
        self.now_s = 100.0
        self.ended: list[Connection] = []
        limits = ConnectionLimits(most, per_address, counts_local)
        super().__init__(limits, self.ended.append, lambda: self.now_s)

    def opened(self, address: str = "a", *, waits: bool = True) -> Connection:
        connection = Connection(address)
        self.enter(connection)
        if waits:
            self.wait(connection, HEAD_S)
        return connection


def test_the_connection_that_waited_longest_makes_room() -> None:
    table = Table()
    first, second, _ = table.opened(), table.opened(), table.opened()
    table.resume(first)
    table.wait(first, 300)
    assert table.opened().refusal == ""
    assert table.ended == [second]
    table.opened()
    assert len(table.ended) == len(set(map(id, table.ended))) == 2


def test_without_a_waiting_connection_the_new_one_is_refused() -> None:
    table = Table()
    for _ in range(3):
        table.opened(waits=False)
    assert table.opened().refusal == "too many connections"
    assert table.ended == []


def test_a_body_of_a_client_that_is_not_authenticated_makes_room_too() -> None:
    table = Table()
    slow, fast, _ = (table.opened(waits=False) for _ in range(3))
    for one, size_bytes in ((slow, 10), (fast, 1000)):
        one.is_receiving = True
        table.received(one, size_bytes)
    assert table.opened().refusal == ""
    assert table.ended == [slow]


def test_an_address_makes_room_for_itself_only() -> None:
    table = Table(most=100, per_address=2)
    other = table.opened("b")
    mine, _ = table.opened("a"), table.opened("a", waits=False)
    assert table.opened("a", waits=False).refusal == ""
    assert table.ended == [mine]
    table.leave(mine)
    assert table.opened("a").refusal == "too many connections of this address"
    assert other not in table.ended
    assert table.opened("b").refusal == ""


def test_this_machine_is_counted_only_if_asked_for() -> None:
    for counts_local, ended in ((False, 0), (True, 8)):
        table = Table(most=100, per_address=2, counts_local=counts_local)
        for _ in range(10):
            table.opened("127.0.0.1")
        assert len(table.ended) == ended


def test_connections_that_are_closed_are_forgotten() -> None:
    table = Table()
    for _ in range(100):
        one = table.opened()
        table.received(one, 5)
        table.leave(one)
    assert len(table) == 0
    assert not vars(table)["_by_address"]
    assert not vars(table)["_waiting"]
    assert vars(table)["_unknown_bytes"] == 0


def test_a_wait_is_over_at_its_deadline_and_a_head_has_less_time() -> None:
    table = Table(most=10)
    fresh, kept = table.opened(), table.opened(waits=False)
    table.wait(kept, 310)
    table.now_s += HEAD_S
    assert table.overdue(all_waiting=False) == [fresh]
    table.hurry(kept)
    table.leave(fresh)
    table.now_s += HEAD_S
    assert table.overdue(all_waiting=False) == [kept]
    table.wait(kept, 310)
    assert table.overdue(all_waiting=True) == [kept]


def test_bytes_of_clients_that_are_not_authenticated_have_a_budget() -> None:
    table = Table(most=1000)
    slow, fast = table.opened(waits=False), table.opened(waits=False)
    for one in (slow, fast):
        one.is_receiving = True
    table.received(slow, 1000)
    table.now_s += 10
    table.received(fast, UNKNOWN_BYTES - 1000)
    assert table.ended == []
    table.received(fast, 1)
    assert table.ended == [slow]
    table.settle(fast)
    assert vars(table)["_unknown_bytes"] == 0


class SlowSocket:
    """Gives some bytes after some time, by a clock that only it moves."""

    def __init__(self, bytes_each: int, each_s: float) -> None:
        self.bytes_each, self.each_s, self.now_s, self.timeout = bytes_each, each_s, 0.0, None

    def settimeout(self, timeout: float | None) -> None:
        self.timeout = timeout

    def recv(self, _size: int) -> bytes:
        if self.timeout is not None and self.each_s > self.timeout:
            self.now_s += self.timeout
            raise TimeoutError
        self.now_s += self.each_s
        return b"x" * self.bytes_each


@pytest.mark.parametrize(
    ("user", "rate", "is_ended"),
    [
        ("joe", LEAST_RATE * 2, False),
        ("joe", LEAST_RATE / 2, True),
        ("", UNKNOWN_RATE / 2, True),
        ("", 2e5, False),
    ],
)
def test_a_body_must_come_at_a_least_rate(
    monkeypatch: pytest.MonkeyPatch, user: str, rate: float, *, is_ended: bool
) -> None:
    socket = SlowSocket(int(rate * 5), 5)
    monkeypatch.setattr(time, "monotonic", lambda: socket.now_s)
    connection = Connection("a")
    connection.entry.user = user
    reader = ConnectionReader(socket, connection, Table())
    reader.begin_body()

    def receive() -> None:
        while socket.now_s < 20 * GRACE_S:
            reader.chunk()

    if is_ended:
        with pytest.raises(TimeoutError):
            receive()
        assert GRACE_S <= socket.now_s < 4 * GRACE_S
    else:
        receive()


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 5, 0, 0), "2001:db8:1:2::"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::"),
        (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1"),
        (("::1", 5, 0, 0), "::1"),
        ("", ""),
        (b"", ""),
    ],
)
def test_what_counts_as_one_address(peer: object, address: str) -> None:
    assert address_of(peer) == address
