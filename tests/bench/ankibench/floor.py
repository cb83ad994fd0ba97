"""What the machine itself needs for the same work: the limits no server can beat."""

from __future__ import annotations

import os
import socket
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard

from . import datasets
from .client import Client
from .metering import Meter
from .nullserver import NullServer
from .scenarios import Options, Sample


def timed(work: Callable[..., object], *args: object) -> float:
    begin = time.perf_counter()
    work(*args)
    return time.perf_counter() - begin


def _rows(db: sqlite3.Connection, sql: str) -> list:
    return db.execute(sql).fetchall()


def run(options: Options, repeat: int) -> Iterator[Sample]:
    yield "tcp round trip", "ms", _round_trip() * 1000
    yield "append 4 KB and fsync", "ms", _fsync(options.work / "floor.log") * 1000
    names = ("small", "medium") if options.quick else ("small", "medium", "large")
    for name in names:
        data = datasets.collection(name, options.cache)
        raw, packed = data.path.read_bytes(), data.compressed.read_bytes()
        copy = options.work / "floor.anki2"
        yield f"{name} size", "MB", len(raw) / 1e6
        yield f"{name} compressed", "MB", len(packed) / 1e6
        yield f"{name} loopback, compressed", "ms", _loopback(packed) * 1000
        yield f"{name} zstd compress", "ms", timed(zstandard.compress, raw, 3) * 1000
        yield f"{name} zstd decompress", "ms", timed(zstandard.decompress, packed) * 1000
        yield f"{name} write file", "ms", timed(copy.write_bytes, raw) * 1000
        for check in ("integrity_check", "quick_check"):
            db = datasets.connect(copy)
            yield (
                f"{name} sqlite {check}",
                "ms",
                timed(_rows, db, f"pragma {check}") * 1000,
            )
            db.close()
        yield f"{name} sqlite row counts", "ms", _counts(copy) * 1000
        for count in (10, 100, 1000):
            yield f"{name} sqlite apply {count} reviews", "ms", _apply(copy, count, repeat) * 1000
        copy.unlink()
        yield from _client_alone(data, packed, options)


def _client_alone(data: datasets.Dataset, packed: bytes, options: Options) -> Iterator[Sample]:
    """Full syncs of a real client with a server that takes no time."""
    server = NullServer(packed, data.size)
    for way in ("upload", "download"):
        client = Client(options.work / "floor", server.url, ("user", "pass"))
        client.open(data.path if way == "upload" else None)
        with Meter(None) as meter:
            client.full(upload=way == "upload")
        client.reopen()
        client.close()
        yield f"{data.spec.name} real {way}, null server", "ms", meter.wall * 1000
        yield f"{data.spec.name} real {way}, null server, cpu", "ms", meter.client_cpu * 1000
    server.close()


def _round_trip(rounds: int = 2000) -> float:
    listener = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        peer, _ = listener.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := peer.recv(4096):
            peer.sendall(data)

    threading.Thread(target=echo, daemon=True).start()
    with socket.create_connection(listener.getsockname()) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ping() -> None:
            for _ in range(rounds):
                sock.sendall(b"x" * 400)
                sock.recv(4096)

        seconds = timed(ping) / rounds
    listener.close()
    return seconds


def _fsync(path: Path, rounds: int = 50) -> float:
    with path.open("wb") as file:

        def append() -> None:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())

        return statistics.median(timed(append) for _ in range(rounds))


def _loopback(data: bytes) -> float:
    """Send bytes to a thread that receives and drops them."""
    listener = socket.create_server(("127.0.0.1", 0))

    def sink() -> None:
        peer, _ = listener.accept()
        buffer = bytearray(1 << 18)
        left = len(data)
        while left:
            left -= peer.recv_into(buffer)
        peer.sendall(b".")

    threading.Thread(target=sink, daemon=True).start()
    with socket.create_connection(listener.getsockname()) as sock:
        seconds = timed(lambda: (sock.sendall(data), sock.recv(1)))
    listener.close()
    return seconds


def _counts(path: Path) -> float:
    """The row counts of a sanity check, in a database that is already open and warm."""
    db = datasets.connect(path)
    tables = ("cards", "notes", "revlog", "graves", "notetypes", "decks", "deck_config")

    def count() -> None:
        for table in tables:
            db.execute(f"select count() from {table}").fetchone()
            db.execute(f"select null from {table} where usn=-1 limit 1").fetchone()

    count()
    seconds = timed(count)
    db.close()
    return seconds


def _apply(path: Path, count: int, repeat: int) -> float:
    """One transaction with `count` changed cards and new revlog rows."""
    db: sqlite3.Connection = datasets.connect(path)
    db.execute("pragma journal_mode=wal")
    cards = db.execute("select * from cards order by id desc limit ?", [count]).fetchall()
    last = db.execute("select max(id) from revlog").fetchone()[0]
    logs = [(last + 1 + i, c[0], 9, 3, 30, 12, 2500, 7000, 1) for i, c in enumerate(cards)]
    cards = [(*c[:4], c[4] + 1 + repeat, 9, 2, 2, 900, 30, 2500, *c[11:]) for c in cards]

    def work() -> None:
        db.execute("begin")
        db.executemany(f"insert or replace into cards values ({','.join('?' * 18)})", cards)
        db.executemany(f"insert into revlog values ({','.join('?' * 9)})", logs)
        db.execute("commit")

    seconds = timed(work)
    db.close()
    return seconds
