"""Chunked bodies are read as gunicorn reads them, byte for byte and error for error."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from gunicorn.http.body import Body, ChunkedReader
from gunicorn.http.unreader import IterUnreader

from app.http.server.chunks import PlainChunksReader, body_of

NEXT = b"POST /next HTTP/1.1\r\n\r\n"


def outcome(reader_class: type, pieces: list[bytes], sizes: list[int]) -> object:
    """What a body gives, read by these sizes, and what is left on the connection."""
    unreader = IterUnreader(pieces)
    request = SimpleNamespace(
        limit_request_field_size=200, max_buffer_headers=500, parse_headers=parse_headers
    )
    body = Body(reader_class(request, unreader))
    found = []
    try:
        for size in [*sizes, 10**6, 1]:
            found.append(body.read(size))  # noqa: PERF401 - those before an error are compared, too
    except Exception as exc:  # noqa: BLE001 - all kinds are compared
        return found, type(exc), str(exc)
    left = b"".join(iter(unreader.read, b""))
    return found, left


def parse_headers(lines: bytes, *, from_trailer: bool) -> list[bytes]:
    assert from_trailer
    return lines.split(b"\r\n")


def both(pieces: list[bytes], sizes: list[int]) -> object:
    plain, judge = outcome(PlainChunksReader, pieces, sizes), outcome(ChunkedReader, pieces, sizes)
    assert plain == judge
    return plain


def chunk(content: bytes, form: str = "%x") -> bytes:
    return (form % len(content)).encode() + b"\r\n" + content + b"\r\n"


def cut(message: bytes, chance: random.Random) -> list[bytes]:
    """The message as a connection may bring it."""
    pieces = []
    while message:
        size = chance.choice([1, 2, 3, 10, 100, 8192])
        pieces.append(message[:size])
        message = message[size:]
    return pieces


@pytest.mark.parametrize("seed", range(200))
def test_sound_bodies_come_out_the_same_however_they_arrive(seed: int) -> None:
    chance = random.Random(seed)
    contents = [chance.randbytes(chance.choice([1, 5, 300, 4096, 9000])) for _ in range(chance.randrange(8))]
    forms = ["%x", "%X", "%06x", "%x;a=b", "%x ; q"]
    message = b"".join(chunk(content, chance.choice(forms)) for content in contents)
    message += chance.choice([b"0\r\n\r\n", b"000\r\n\r\n", b"0;x\r\n\r\n", b"0\r\nName: value\r\n\r\n"])
    found, left = both(cut(message + NEXT, chance), [chance.choice([1, 7, 5000]) for _ in range(5)])
    assert b"".join(found) == b"".join(contents)
    assert left == NEXT


@pytest.mark.parametrize("seed", range(200))
def test_damaged_bodies_are_refused_alike(seed: int) -> None:
    chance = random.Random(seed)
    message = bytearray(
        b"".join(chunk(chance.randbytes(chance.randrange(1, 40))) for _ in range(5)) + b"0\r\n\r\n"
    )
    for _ in range(chance.randrange(1, 3)):
        at = chance.randrange(len(message))
        match chance.randrange(3):
            case 0:
                message[at] = chance.choice(b"\r\n0af;x \xff")
            case 1:
                del message[at : at + chance.randrange(1, 4)]
            case 2:
                message = message[: at + 1]
    both(cut(bytes(message), chance), [chance.choice([1, 20, 1000])])


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"5",
        b"5\r\n",
        b"5\r\nabc",
        b"5\r\nabcde",
        b"5\r\nabcde\r",
        b"5\r\nabcdeXX",
        b"x\r\n",
        b"-1\r\na\r\n",
    ],
)
def test_broken_bodies_are_refused_alike(message: bytes) -> None:
    both([message] if message else [], [])
    both([bytes([byte]) for byte in message], [])


def test_only_chunked_bodies_are_read_anew() -> None:
    request = SimpleNamespace(unreader=IterUnreader([]))
    request.body = Body(ChunkedReader(request, request.unreader))
    assert isinstance(body_of(request).reader, PlainChunksReader)
    request.body = Body(SimpleNamespace())
    assert body_of(request) is request.body
