"""A proxy for single HTTP requests: spreads them over servers, counts, records, and cuts them off.

One thread per client connection, and a new connection to a server for each request, so that every
request can go elsewhere. Bodies pass in the framing they came in.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import BinaryIO

PIECE_BYTES = 1 << 16


class Fault(Enum):
    """What becomes of a request; a lost request never reached the server, a lost answer did."""

    NONE = "none"
    LOSE_REQUEST = "lose request"
    LOSE_ANSWER = "lose answer"


@dataclass
class Exchange:
    """One request as it passed, and its answer; bodies are without chunk framing."""

    number: int
    line: str
    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer: bytearray = field(default_factory=bytearray)

    @property
    def path(self) -> str:
        return self.line.split()[1]

    @property
    def method(self) -> str:
        return self.path.partition("?")[0].rstrip("/").rpartition("/")[2]


Route = Callable[[Exchange], int]
Fate = Callable[[Exchange], Fault]


class Proxy:
    """`route` picks the server (an index) of a request, `fate` its fault; both see the request's head.

    Either may wait: only its own connection waits with it.
    """

    def __init__(self, ports: Sequence[int], route: Route | None = None, fate: Fate | None = None) -> None:
        self.ports = list(ports)
        self.route = route or (lambda exchange: exchange.number % len(self.ports))
        self.fate = fate or (lambda _exchange: Fault.NONE)
        self.exchanges: list[Exchange] = []
        self.body_limit: int | None = None  # bytes of a request's body after which the line goes dead
        self._lock = threading.Condition()
        self._serving = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    @classmethod
    def spread(cls, ports: Sequence[int], seed: int) -> Proxy:
        """Sends each request to a server drawn from a seeded generator."""
        rng = random.Random(seed)
        return cls(ports, route=lambda _exchange: rng.randrange(len(ports)))

    @property
    def methods(self) -> list[str]:
        return [exchange.method for exchange in self.exchanges]

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        # a plain close would leave the accepting thread in the call
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def settle(self) -> None:
        """Wait until no connection is being served, so that nothing of a dead client is still to come."""
        with self._lock:
            assert self._lock.wait_for(lambda: self._serving == 0, 30)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._serving += 1
            threading.Thread(target=self._run, args=(client,), daemon=True).start()

    def _run(self, client: socket.socket) -> None:
        try:
            self._serve(client)
        finally:
            with self._lock:
                self._serving -= 1
                self._lock.notify_all()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as reader, contextlib.suppress(OSError, ValueError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while self._pass_one(client, reader):
                pass

    def _pass_one(self, client: socket.socket, reader: BinaryIO) -> bool:
        """Pass one request and its answer; false when the connection is to end."""
        head, line, headers = _read_head(reader)
        if not head:
            return False
        with self._lock:
            exchange = Exchange(len(self.exchanges), line, headers)
            self.exchanges.append(exchange)
        fault = self.fate(exchange)
        index = self.route(exchange)
        if fault is Fault.LOSE_REQUEST:
            return False
        if "expect" in headers:
            # the client waits for this before it sends its body, and the server shall not send its own
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", head)
        with socket.create_connection(("127.0.0.1", self.ports[index])) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # a server may answer, and hang up, before it has read a body to its end
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for piece in _gather(head, _body(reader, headers, exchange.body)):
                    self._check_limit(exchange)
                    server.sendall(piece)
            with server.makefile("rb") as answers:
                return self._pass_answer(exchange, answers, client, lost=fault is Fault.LOSE_ANSWER)

    def _pass_answer(
        self, exchange: Exchange, answers: BinaryIO, client: socket.socket, *, lost: bool
    ) -> bool:
        head, line, headers = _read_head(answers)
        if not head:
            return False
        exchange.answer_headers = headers
        exchange.status = int(line.split()[1])
        lost = lost or self._is_lost(exchange)
        framing = {} if exchange.line.startswith("HEAD ") else headers
        for piece in _gather(head, _body(answers, framing, exchange.answer)):
            if not lost:
                client.sendall(piece)
        return not lost and "close" not in (exchange.headers.get("connection"), headers.get("connection"))

    def _is_lost(self, _exchange: Exchange) -> bool:
        """Called when an answer begins to come: whether the client shall not have it."""
        return False

    def _check_limit(self, exchange: Exchange) -> None:
        if self.body_limit is not None and len(exchange.body) > self.body_limit:
            raise TimeoutError("the line went dead")


def _read_head(reader: BinaryIO) -> tuple[bytes, str, dict[str, str]]:
    """The bytes up to the empty line, the first line, and the headers in lower case."""
    lines = []
    while (line := reader.readline()) not in (b"\r\n", b""):
        lines.append(line)
    if not lines:
        return b"", "", {}
    pairs = (text.decode("latin-1").partition(":") for text in lines[1:])
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return b"".join(lines) + b"\r\n", lines[0].decode("latin-1"), headers


def _body(reader: BinaryIO, headers: dict[str, str], content: bytearray) -> Iterator[bytes]:
    """The pieces of a body in its framing; what they carry is added to `content`."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        data = b"not the end"
        while len(data) > 2:
            line = reader.readline()
            data = reader.read(int(line, 16) + 2)
            content += data[:-2]
            yield line + data
        return
    left = int(headers.get("content-length", 0))
    while left:
        data = reader.read(min(left, PIECE_BYTES))
        if not data:
            raise ConnectionError("the body ended early")
        left -= len(data)
        content += data
        yield data


def _gather(head: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Join small pieces, so that a small message leaves in one packet as it came."""
    waiting = bytearray(head)
    for piece in pieces:
        waiting += piece
        if len(waiting) >= PIECE_BYTES:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)
