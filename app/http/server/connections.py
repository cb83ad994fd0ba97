"""The open connections of one worker: which wait, which send a body, and which have to make room.

States of a connection, and what ends it:

    fresh ──head──> request ──answer──> waiting ──first byte──> head ──> request ...

    fresh, head   `HEAD_S` for the whole head; closed earlier to make room, the longest waiting first
    waiting       the keep-alive time; closed earlier in the same way
    request       while its body is read: `SILENCE_S` without a byte, or less than `LEAST_RATE` on average.
                  Until the client is authenticated: less than `UNKNOWN_RATE`, or the slowest of all such
                  connections once they have sent more than `UNKNOWN_BYTES` together
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from gunicorn.http.errors import ParseException
from gunicorn.http.unreader import SocketUnreader

from app.http.accesslog import Entry

SILENCE_S = 90
"""A client that neither sends nor takes a byte for so long is gone; Anki's give up after 30 s."""

HEAD_S = 30
"""For the head of a request, from the connection's beginning or the head's first byte."""

GRACE_S = 30
LEAST_RATE = 500
"""Bytes per second that a body, or an answer, must travel at on average after `GRACE_S`."""

UNKNOWN_RATE = 16 * 1024
"""The same for a body until its client is authenticated. Nearly all need 64 KiB for that; the forms of
clients from 2.1.20 to 2.1.56 have the host key behind the data, and so may be a whole collection."""

UNKNOWN_BYTES = 128 * 1024 * 1024
"""What all clients of a worker that are not authenticated may have sent of running requests."""

_CANDIDATES = 64
"""Of the oldest such requests the slowest is ended, so that the choice takes no time."""

SPARE = 64
"""Connections above the limit that are accepted for `/health`, and told to come back otherwise."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections one worker process keeps open."""

    most: int
    per_address: int
    """Of one client address (an IPv6 /64); 0: any number."""
    counts_local: bool = False
    """Whether `per_address` holds for this machine too, where a proxy may run."""


@dataclass(slots=True, eq=False)
class Connection:
    """One client's connection."""

    address: str
    """What the limit per address counts."""
    greenlet: Any = None
    entry: Entry = field(default_factory=Entry)
    """Of the request at hand; it names the user once the client is authenticated."""
    refusal: str = ""
    """Why nothing but `/health` is answered; empty for an ordinary connection."""
    is_waiting: bool = False
    is_lingering: bool = False
    """Whether it waits for nothing but its client's end."""
    is_receiving: bool = False
    """Whether the greenlet is in `recv` of a body, and so may be ended from outside."""
    deadline_s: float = 0.0
    """While waiting: when it is closed, by the clock of the table."""
    unknown_bytes: int = 0
    """Received of the request at hand before its client was authenticated."""
    unknown_since_s: float = 0.0


class ConnectionTable:
    """All connections of a worker. `close` ends the greenlet of one, soon and not at once."""

    def __init__(
        self,
        limits: ConnectionLimits,
        close: Callable[[Connection], object],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.closed_for_room = 0
        """How many were closed before their time; for the log."""
        self._close = close
        self._clock_s = clock_s
        self._open: set[Connection] = set()
        self._by_address: Counter[str] = Counter()
        # In the order in which they began to wait.
        self._waiting: OrderedDict[Connection, None] = OrderedDict()
        # Requests of clients that are not authenticated, in the order in which their bodies began.
        self._unknown: OrderedDict[Connection, None] = OrderedDict()
        self._unknown_bytes = 0

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: Connection) -> None:
        """Count a new connection; if it is one too many, make room, or let it be refused."""
        self._open.add(connection)
        self._by_address[connection.address] += 1
        if self._is_over(connection.address):
            if not self._make_room(connection.address):
                connection.refusal = "too many connections of this address"
        elif len(self._open) > self.limits.most and not self._make_room():
            connection.refusal = "too many connections"

    def leave(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self.resume(connection)
        self.settle(connection)
        self._open.discard(connection)
        self._by_address[connection.address] -= 1
        if self._by_address[connection.address] <= 0:
            del self._by_address[connection.address]

    def wait(self, connection: Connection, wait_s: float) -> None:
        """The connection waits for its next request."""
        connection.is_waiting = True
        connection.deadline_s = self._clock_s() + wait_s
        self._waiting[connection] = None

    def hurry(self, connection: Connection) -> None:
        """The first byte of a head is there."""
        connection.deadline_s = min(connection.deadline_s, self._clock_s() + HEAD_S)

    def resume(self, connection: Connection) -> None:
        """The connection does not wait any more."""
        connection.is_waiting = False
        self._waiting.pop(connection, None)

    def received(self, connection: Connection, size_bytes: int) -> None:
        """Count bytes of a client that is not authenticated; the slowest such request makes room for them."""
        if connection not in self._unknown:
            self._unknown[connection] = None
            connection.unknown_since_s = self._clock_s()
        connection.unknown_bytes += size_bytes
        self._unknown_bytes += size_bytes
        if self._unknown_bytes > UNKNOWN_BYTES:
            self._end_slowest(connection)

    def settle(self, connection: Connection) -> None:
        """The request is answered, or its client is authenticated."""
        if connection in self._unknown:
            del self._unknown[connection]
            self._unknown_bytes -= connection.unknown_bytes
            connection.unknown_bytes = 0

    def overdue(self, *, all_waiting: bool) -> list[Connection]:
        """Connections whose wait is over; `all_waiting`: all that wait, as the worker stops."""
        now_s = self._clock_s()
        return [
            one for one in self._waiting if one.deadline_s <= now_s or (all_waiting and not one.is_lingering)
        ]

    def _is_over(self, address: str) -> bool:
        if not self.limits.per_address or self._by_address[address] <= self.limits.per_address:
            return False
        return self.limits.counts_local or not is_local(address)

    def _make_room(self, address: str | None = None) -> bool:
        """Close the connection that has waited longest (`address`: of that address only)."""
        found = next((one for one in self._waiting if address is None or one.address == address), None)
        if found is None:
            return address is None and self._end_slowest(None)
        self._waiting.pop(found, None)  # it goes on waiting for an instant, but is not chosen twice
        self._end(found)
        return True

    def _end_slowest(self, spared: Connection | None) -> bool:
        """End the slowest of the oldest requests whose clients are not authenticated."""
        now_s = self._clock_s()
        candidates = islice(
            (one for one in self._unknown if one.is_receiving and one is not spared), _CANDIDATES
        )
        found = min(
            candidates,
            key=lambda one: one.unknown_bytes / (now_s - one.unknown_since_s + 1),
            default=None,
        )
        if found is None:
            return False
        self.settle(found)
        self._end(found)
        return True

    def _end(self, connection: Connection) -> None:
        self.closed_for_room += 1
        self._close(connection)


class ConnectionReader(SocketUnreader):  # type: ignore[misc]
    """Receives the bytes of one connection, and keeps its times and rates."""

    def __init__(self, sock: Any, connection: Connection, table: ConnectionTable) -> None:
        super().__init__(sock)
        self._is_head_begun = False
        self._connection, self._table = connection, table
        self._waited_s = 0.0
        self._received_bytes = 0

    def begin_head(self) -> None:
        """The next bytes are those of a head. Its time is kept by the table: a timer would cost more."""
        self._is_head_begun = False
        self.sock.settimeout(None)

    def begin_body(self) -> None:
        """The next bytes are those of a body."""
        self._waited_s, self._received_bytes = 0.0, 0
        self.sock.settimeout(SILENCE_S)  # for the answer, if no body is read

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next bytes from the socket.

        Raises: OSError, of it TimeoutError if the client is too slow; OtherProtocol.
        """
        connection = self._connection
        if connection.is_waiting:
            piece: bytes = super().chunk(size_hint)
            if not self._is_head_begun:
                self._is_head_begun = True
                self._table.hurry(connection)
                _refuse_other_protocols(piece)
            return piece
        is_known = bool(connection.entry.user)
        if not is_known:
            self._table.received(connection, 0)
        self.sock.settimeout(self._time_left(is_known=is_known))
        started_s = time.monotonic()
        connection.is_receiving = True
        try:
            piece = super().chunk(size_hint)
        finally:
            connection.is_receiving = False
            self._waited_s += time.monotonic() - started_s
        self._received_bytes += len(piece)
        if is_known:
            self._table.settle(connection)
        else:
            self._table.received(connection, len(piece))
        self.sock.settimeout(SILENCE_S)
        return piece

    def _time_left(self, *, is_known: bool) -> float:
        rate = LEAST_RATE if is_known else UNKNOWN_RATE
        left_s = GRACE_S + self._received_bytes / rate - self._waited_s
        if left_s <= 0:
            raise TimeoutError("the body comes too slowly")
        return min(SILENCE_S, left_s)


class OtherProtocol(ParseException):  # type: ignore[misc]
    """The client does not speak HTTP/1; `name` says what instead, for the log."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


_OTHER_PROTOCOLS = (
    (b"\x16\x03", "TLS on the plain port: use http:// in Anki, or a proxy in front that speaks HTTPS"),
    (b"PRI * HTTP/2", "HTTP/2 without TLS: the proxy must speak HTTP/1.1 to this server"),
    (b"PROXY ", "the PROXY protocol: the proxy must speak plain HTTP/1.1 to this server"),
    (b"\r\n\r\n\x00\r\nQUIT\n", "the PROXY protocol: the proxy must speak plain HTTP/1.1 to this server"),
    (b"SSH-", "SSH"),
)


_OTHER_STARTS = tuple(start for start, _ in _OTHER_PROTOCOLS)


def _refuse_other_protocols(first: bytes) -> None:
    """At once: what waits for an answer to its greeting sends no line that would end a head."""
    if not first.startswith(_OTHER_STARTS):
        return
    for start, name in _OTHER_PROTOCOLS:
        if first.startswith(start):
            raise OtherProtocol(name)


def address_of(peer: Any) -> str:
    """What the limit per address counts: an IPv4 address, an IPv6 /64, or all that come by a Unix socket."""
    if not isinstance(peer, tuple):
        return ""
    text = str(peer[0]).partition("%")[0]
    if ":" not in text:
        return text
    address = ipaddress.IPv6Address(text)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.is_loopback:
        return str(address)
    return str(ipaddress.IPv6Address(int(address) >> 64 << 64))


def is_local(address: str) -> bool:
    """Whether the other end is on this machine."""
    return not address or address == "::1" or address.startswith("127.")
