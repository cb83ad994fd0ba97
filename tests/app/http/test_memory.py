"""What one request can make a worker hold: small bodies that unpack, and decode, to much."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import zstandard

from app.http.body import Room
from app.http.limits import CHANGES, IDS
from storage.errors import Unavailable
from tests.support import servers
from tests.support.wire import Wire, dump, path_of, sync_header

MIB = 1024 * 1024
GROWTH_BYTES = 450 * MIB
"""Of a worker. The largest message that is taken has 100 MiB, and is copied once while it is unpacked."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    folder = tmp_path_factory.mktemp("memory") / "data"
    with servers.serving(servers.OURS, folder, 1, {"ANKISYNCD_WORKERS": "1"}) as started:
        yield started


@pytest.fixture(scope="module")
def wire(server: servers.Server) -> Iterator[Wire]:
    with Wire(server.port, skey="the-sync") as opened:
        opened.login(server.users[0].name, server.users[0].password)
        assert opened.call("start", {"minUsn": 0, "lnewer": True}).ok
        yield opened


def status_of(server: servers.Server) -> Path:
    (worker,) = psutil.Process(server.process.pid).children()
    return Path(f"/proc/{worker.pid}/status")


def peak_bytes(server: servers.Server) -> int:
    """The most that the worker has held since it was last asked."""
    status = status_of(server)
    lines = status.read_text().splitlines()
    status.with_name("clear_refs").write_text("5")  # proc(5): the peak begins anew
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def filled(before: bytes, unit: bytes, after: bytes, size_bytes: int = 99 * MIB) -> bytes:
    return before + unit * ((size_bytes - len(before) - len(after)) // len(unit)) + after


BOMBS = {
    "lists": ("applyChanges", b'{"changes":{"models":[{"a":[', b"[],", b'[]]}],"decks":[[],[]],"tags":[]}}'),
    "dicts": ("applyChanges", b'{"changes":{"models":[', b'{"":0},', b'{}],"decks":[[],[]],"tags":[]}}'),
    "tags": ("applyChanges", b'{"changes":{"models":[],"decks":[[],[]],"tags":[', b'"ab",', b'""]}}'),
    "ids": ("applyGraves", b'{"chunk":{"cards":[', b"1000,", b'1],"notes":[],"decks":[]}}'),
    "old ids": ("start", b'{"minUsn":0,"lnewer":true,"graves":{"cards":[', b'"1",', b'""]}}'),
    "rows": ("applyChunk", b'{"chunk":{"revlog":[', b"[],", b"[]]}}"),
    "names": ("downloadFiles", b'{"files":[', b'"",', b'""]}'),
    "unknown keys": ("meta", b'{"v":11,"cv":"x","x":[', b"0.5,", b"0]}"),
    "counts": ("sanityCheck2", b'{"client":[', b"0,", b"0]}"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("size_bytes", [99 * MIB, 15 * MIB])
def test_a_few_bytes_do_not_become_gigabytes(
    server: servers.Server, wire: Wire, name: str, size_bytes: int
) -> None:
    method, *parts = BOMBS[name]
    packed = zstandard.compress(filled(*parts, size_bytes=size_bytes), 3)
    peak_bytes(server)
    before = peak_bytes(server)
    answer = wire.send(path_of(method), {"anki-sync": sync_header(wire.hkey, "the-sync")}, packed)
    assert (answer.status, answer.body[:3]) == (400, b"400")
    assert peak_bytes(server) - before < GROWTH_BYTES


def test_large_messages_of_real_clients_pass(wire: Wire) -> None:
    notetype = {"id": 1, "name": "n", "css": "a{b:c,d}" * 100_000, "flds": [{"name": "x"}] * 50}
    changes = {"models": [notetype] * 20, "decks": [[], []], "tags": [f"tag::{n}" for n in range(200_000)]}
    graves = {"cards": list(range(1_600_000_000_000, 1_600_000_300_000)), "notes": [], "decks": []}
    for method, limits, message in (
        ("start", IDS, {"minUsn": 0, "lnewer": True, "graves": graves}),
        ("applyGraves", IDS, {"chunk": graves}),
        ("applyChanges", CHANGES, {"changes": changes}),
    ):
        assert len(dump(message)) < limits.size_bytes
        answer = wire.call(method, message)
        # What is in these notetypes is not the point: they are read, and not refused for their size.
        assert b"too large" not in answer.body
        assert b"values" not in answer.body


def test_a_chunk_of_long_fields_passes(wire: Wire) -> None:
    text = "[{," * 100_000
    row = [5, "guid", 1, 1_700_000_000, -1, "", text + "\x1f" + text, "", "", 0, ""]
    message = {"chunk": {"done": False, "notes": [[n, *row[1:]] for n in range(1, 41)]}}
    assert len(json.dumps(message)) > 20 * MIB
    answer = wire.call("applyChunk", message)
    assert b"too large" not in answer.body
    assert b"values" not in answer.body


def test_one_owner_gets_at_most_half_of_the_room_and_all_of_it_comes_back() -> None:
    room = Room(100)
    with room.share("joe") as first, room.share("joe") as second, room.share("ann") as other:
        first.need(30)
        assert not second.take(21)
        second.need(20)
        other.need(50)
        with pytest.raises(Unavailable):
            other.need(1)
    with room.share("joe") as again:
        again.need(50)
        assert room.left_bytes == 50
    assert room.left_bytes == 100
