"""A whole body is unpacked at once to what the unpacker makes of it, or not at all."""

from __future__ import annotations

import random
import struct

import pytest
import zstandard

from app.errors import ProtocolError
from app.http.unpack import ZstdUnpacker, unpacked_zstd
from tests.app.http.wire import packed

MIB = 1 << 20
CONTENT = random.Random(1).randbytes(300_000)
FRAME = packed(CONTENT)
SKIPPABLE = b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"abcd"
WIDE = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=27))


def by_unpacker(body: bytes) -> bytes | None:
    pieces: list[bytes] = []
    unpacker = ZstdUnpacker()
    try:
        unpacker.feed(body, pieces.append)
        unpacker.finish()
    except ProtocolError:
        return None
    return b"".join(pieces)


def test_what_real_clients_send_of_media_is_unpacked() -> None:
    assert unpacked_zstd(FRAME, MIB) == CONTENT
    assert unpacked_zstd(FRAME, len(CONTENT)) == CONTENT


@pytest.mark.parametrize("body", [FRAME + b"junk", FRAME + packed(b"another"), packed(b"x")])
def test_what_follows_the_first_frame_is_ignored(body: bytes) -> None:
    assert unpacked_zstd(body, MIB) == by_unpacker(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"junk",
        FRAME[:-3],
        FRAME[: len(FRAME) // 2],
        FRAME[:5],
        SKIPPABLE + FRAME,
        packed(b""),
        zstandard.compress(CONTENT),
        packed(bytes(MIB // 2)),
        WIDE.compressobj().compress(CONTENT),
    ],
)
def test_anything_else_is_left_to_the_unpacker(body: bytes) -> None:
    assert unpacked_zstd(body, MIB) is None


def test_more_than_was_allowed_is_left_to_the_unpacker() -> None:
    assert unpacked_zstd(FRAME, len(CONTENT) - 1) is None


def test_no_frame_gets_the_memory_that_it_asks_for() -> None:
    """A terabyte would be a MemoryError, and what is there really more than was allowed."""
    huge = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 40) + b"\x01\x00\x00"
    for body in (huge, packed(bytes(8 * MIB)), zstandard.compress(bytes(8 * MIB))):
        assert unpacked_zstd(body, 4 * MIB) is None


@pytest.mark.parametrize("seed", range(300))
def test_damaged_bodies_are_unpacked_alike(seed: int) -> None:
    chance = random.Random(seed)
    body = bytearray(packed(chance.randbytes(chance.randrange(1, 3000)) + bytes(chance.randrange(300))))
    for _ in range(chance.randrange(1, 4)):
        body[chance.randrange(len(body))] = chance.randrange(256)
    found = unpacked_zstd(bytes(body), MIB)
    assert found is None or found == by_unpacker(bytes(body))
