"""Chunked bodies of plain form, read with few steps; whatever is odd in one is gunicorn's to judge.

Clients send files in chunks of 4 KiB, a quarter of a million of them for a gigabyte.
Source: RFC 9112, section 7.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gunicorn.http.body import Body, ChunkedReader
from gunicorn.http.errors import ChunkMissingTerminator, NoMoreData

_PLAIN_SIZE = re.compile(rb"([0-9a-fA-F]{1,7})\r\n")
_READ_AHEAD_BYTES = 64 * 1024
"""Asked of the connection at once. What belongs to the next request goes back to where it came from."""


class PlainChunksReader(ChunkedReader):  # type: ignore[misc]
    """As gunicorn's, and the same bytes and errors come out of it."""

    def parse_chunked(self, unreader: Any) -> Iterator[bytes]:
        """The contents of the chunks, in pieces."""
        received, at = b"", 0
        while True:
            plain = _PLAIN_SIZE.match(received, at)
            size = int(plain[1], 16) if plain else 0
            if plain and size:
                at = plain.end()
            else:  # the last chunk, one with extensions, a line that is not whole, or no HTTP
                size, received = self.parse_chunk_size(unreader, data=received[at:])
                at = 0
            if not size:
                return
            while (left := at + size - len(received)) > 0:
                if at < len(received):
                    yield received[at:]
                received, at, size = unreader.read(None, read_ahead=_READ_AHEAD_BYTES), 0, left
                if not received:
                    raise NoMoreData
            end = at + size
            yield received[at:end]
            at = end + 2
            if received[end:at] != b"\r\n":
                received, at = _with_end_of_line(received[end:], unreader), 2


def _with_end_of_line(received: bytes, unreader: Any) -> bytes:
    while len(received) < 2 and (more := unreader.read()):
        received += more
    if received[:2] != b"\r\n":
        raise ChunkMissingTerminator(received[:2])
    return received


def body_of(request: Any) -> Any:
    """A request's body, none of which was read yet."""
    if type(request.body.reader) is ChunkedReader:
        return Body(PlainChunksReader(request, request.unreader))
    return request.body
