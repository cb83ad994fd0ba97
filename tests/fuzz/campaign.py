"""Sends inputs to a live server, from several clients at once, and judges what becomes of it."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.differential.samples import make_collection
from tests.fuzz.inputs import Input, Sounds, make_input
from tests.support import servers
from tests.support.wire import Wire, media_zip

HANG_S = 60
"""Without an answer for so long a request hangs; the server's own limits end it before."""

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


@dataclass
class Report:
    """What was seen."""

    sent: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    """Answers that must not be, each with the number of its input."""
    memory_mib: list[int] = field(default_factory=list)
    """Of all processes of the server, from time to time."""
    descriptors: list[int] = field(default_factory=list)


class Client:
    """One user's connection, opened again whenever it is closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def statuses(self, one: Input) -> Iterator[int]:
        """Send an input; the statuses of all answers. Raises: TimeoutError for a request that hangs."""
        if one.ends:
            self.close()
        connection = self._connected()
        try:
            for piece in one.pieces:
                connection.sendall(piece)
            if one.ends:
                connection.shutdown(socket.SHUT_WR)
                yield from self._until_closed(connection)
                self.close()
            else:
                yield self._answer(connection)
        except (ConnectionError, BrokenPipeError):
            self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=HANG_S)
        return self._socket

    @staticmethod
    def _until_closed(connection: socket.socket) -> Iterator[int]:
        content = b""
        while piece := connection.recv(1 << 16):
            content += piece
        # Answers are packed or plain text of ours; none has a status line in its body.
        yield from (int(status) for status in _STATUS.findall(content))

    def _answer(self, connection: socket.socket) -> int:
        content = b""
        while b"\r\n\r\n" not in content:
            piece = connection.recv(1 << 16)
            if not piece:
                raise ConnectionError
            content += piece
        head, _, body = content.partition(b"\r\n\r\n")
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if b"content-length" in lines:
            while len(body) < int(lines[b"content-length"]):
                body += connection.recv(1 << 16)
        else:
            while not body.endswith(b"0\r\n\r\n"):
                body += connection.recv(1 << 16)
        if lines.get(b"connection") == b"close":
            self.close()
        return int(head.split()[1])


class Campaign:
    """A server with some users: those of the clients, and one whose data must not change."""

    CLIENTS = 6

    def __init__(self, server: servers.Server, folder: Path) -> None:
        self._server = server
        self._collection = make_collection(folder / "collection.anki2", 3)
        self._process = psutil.Process(server.process.pid)
        self.report = Report()
        self._victim = self._joined()
        assert self._victim.upload(self._collection).body == b"OK"
        assert self._victim.call("uploadChanges", media_zip([("mine.jpg", b"mine")])).ok

    def run(self, seed: str, count: int) -> Report:
        """Send the inputs 0 to `count` of a seed."""
        state, workers = self._state(), self._workers()
        numbers, lock = iter(range(count)), threading.Lock()
        threads = [
            threading.Thread(target=self._work, args=(seed, numbers, lock)) for _ in range(self.CLIENTS)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self._measure()
            threads[0].join(max(0.2, count / 20_000))
        self._judge(state, workers)
        self._victim.connection.close()
        return self.report

    def _joined(self) -> Wire:
        user = self._server.next_user()
        wire = Wire(self._server.port, skey="fuzz", timeout_s=HANG_S)
        wire.login(user.name, user.password)
        return wire

    def _work(self, seed: str, numbers: Iterator[int], lock: threading.Lock) -> None:
        with lock:
            wire = self._joined()
        wire.upload(self._collection)
        wire.call("start", {"minUsn": 0, "lnewer": True})
        sounds, client = Sounds(wire.hkey, self._collection), Client(self._server.port)
        wire.connection.close()
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            one = make_input(seed, number, sounds)
            try:
                statuses = list(client.statuses(one))
            except TimeoutError:
                client.close()
                self._fault(f"{one.kind} {number}: no answer in {HANG_S} s")
                continue
            with lock:
                self.report.sent[one.kind] += 1
                self.report.statuses.update(statuses)
            for status in statuses:
                if status >= 500 and status not in {501, 503}:
                    self._fault(f"{one.kind} {number}: {status}")
        client.close()
        wire.connection.close()

    def _fault(self, text: str) -> None:
        self.report.faults.append(text)

    def _workers(self) -> list[int]:
        return sorted(child.pid for child in self._process.children())

    def _state(self) -> object:
        meta = self._victim.call("meta", {"v": 11, "cv": "x"}).json
        del meta["ts"]
        return meta, self._victim.call("downloadFiles", {"files": ["mine.jpg"]}).body

    def _measure(self) -> None:
        family = [self._process, *self._process.children()]
        self.report.memory_mib.append(sum(one.memory_info().rss for one in family) >> 20)
        self.report.descriptors.append(sum(one.num_fds() for one in family))

    def _judge(self, state: object, workers: list[int]) -> None:
        if self._workers() != workers:
            self._fault("a worker was replaced")
        if self._state() != state:
            self._fault("another user's data changed")
        if "Traceback" in self._server.log:
            self._fault("a traceback is in the log")
        lines = [json.loads(line) for line in self._server.log.splitlines() if line.startswith("{")]
        if any(line.get("status") == 503 and not line.get("reason") for line in lines):
            self._fault("a 503 without a cause in the log")
        spool = self._server.folder / "ankisyncd" / "spool"
        deadline = time.monotonic() + HANG_S
        while [path for path in spool.iterdir() if path.is_file() and path.name != "lock"]:
            if time.monotonic() > deadline:
                self._fault("files stay in the spool")
                break


def run(folder: Path, seed: str, count: int, workers: int = 2) -> Report:
    """A campaign against a server of its own."""
    extra = {"ANKISYNCD_WORKERS": str(workers), "ANKISYNCD_LOG_FORMAT": "json"}
    with servers.serving(servers.OURS, folder / "data", Campaign.CLIENTS + 1, extra) as server:
        return Campaign(server, folder).run(seed, count)
