"""Unpacking: any cut of the input, any end, and little memory whatever comes."""

from __future__ import annotations

import gzip
import random
import tracemalloc
from collections.abc import Callable

import pytest
import zstandard

from app.errors import ProtocolError
from app.http.unpack import GzipUnpacker, PlainUnpacker, Unpacker, ZstdUnpacker
from storage.errors import TooLarge

MIB = 1024 * 1024
FILE = random.Random(5).randbytes(3000) + b"a" * 50_000


def zstd(content: bytes) -> bytes:
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(content) + packer.flush()


PACKERS: dict[str, tuple[Callable[[], Unpacker], Callable[[bytes], bytes]]] = {
    "zstd": (ZstdUnpacker, zstd),
    "gzip": (GzipUnpacker, gzip.compress),
    "plain": (PlainUnpacker, bytes),
}


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
@pytest.mark.parametrize("name", PACKERS)
def test_blocks_of_any_size_give_the_same_content(name: str, size: int) -> None:
    make, pack = PACKERS[name]
    packed, unpacker, pieces = pack(FILE), make(), list[bytes]()
    for start in range(0, len(packed), size):
        unpacker.feed(packed[start : start + size], pieces.append)
    unpacker.finish()
    assert b"".join(pieces) == FILE


@pytest.mark.parametrize("name", ["zstd", "gzip"])
def test_what_follows_the_content_is_ignored_however_it_is_cut(name: str) -> None:
    make, pack = PACKERS[name]
    for size in (1, 10**6):
        packed, unpacker, pieces = pack(FILE) + b"\x28\xb5\x2f\xfdjunk" * 3, make(), list[bytes]()
        for start in range(0, len(packed), size):
            unpacker.feed(packed[start : start + size], pieces.append)
        unpacker.finish()
        assert b"".join(pieces) == FILE


@pytest.mark.parametrize("name", ["zstd", "gzip"])
def test_an_end_in_the_middle_is_noticed_wherever_it_is(name: str) -> None:
    make, pack = PACKERS[name]
    packed = pack(FILE)
    for end in (0, 1, 5, len(packed) // 2, len(packed) - 1):
        unpacker = make()
        unpacker.feed(packed[:end], lambda piece: None)
        with pytest.raises(ProtocolError):
            unpacker.finish()


@pytest.mark.parametrize("name", ["zstd", "gzip"])
def test_broken_bytes_are_a_protocol_error(name: str) -> None:
    make, pack = PACKERS[name]
    packed = bytearray(pack(FILE))
    packed[4:40] = b"\xff" * 36
    with pytest.raises(ProtocolError):
        drain(make(), bytes(packed))


def drain(unpacker: Unpacker, packed: bytes) -> None:
    unpacker.feed(packed, lambda piece: None)
    unpacker.finish()


@pytest.mark.parametrize("name", ["zstd", "gzip"])
def test_a_bomb_is_stopped_by_its_sink_before_it_takes_memory(name: str) -> None:
    make, pack = PACKERS[name]
    bomb = pack(bytes(400 * MIB))
    seen = 0

    def sink(piece: bytes) -> None:
        nonlocal seen
        seen += len(piece)
        if seen > 64 * MIB:
            raise TooLarge("enough")

    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            make().feed(bomb, sink)
        assert tracemalloc.get_traced_memory()[1] < 80 * MIB
    finally:
        tracemalloc.stop()
