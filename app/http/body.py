"""The payload of one request: read into memory where it is a message, into a file where it is a file.

Small bodies are unpacked on the spot; of large ones nothing but the block at hand is in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from app.errors import PayloadTooLarge
from app.http.unpack import Unpacker
from storage.errors import TooLarge
from storage.types import Offload

SMALL_BYTES = 64 * 1024
"""A body that ends within so many bytes is unpacked inline, without a hop to another thread."""

_SMALL_UNPACKED_BYTES = 1024 * 1024
_BLOCK_BYTES = 256 * 1024


class Source(Protocol):
    """Where the packed bytes come from: the connection, or a spooled form field."""

    def read(self, size: int, /) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""


class Body:
    """Packed bytes that can be taken once, by `read` or by `spool`."""

    def __init__(
        self, source: Source, unpacker: Callable[[], Unpacker], offload: Offload[Any], limit_bytes: int
    ) -> None:
        self._source = source
        self._unpacker = unpacker
        self._offload = offload
        self._limit_bytes = limit_bytes
        self._head = source.read(SMALL_BYTES)
        self._is_whole = len(self._head) < SMALL_BYTES
        self._small: bytes | None = None

    def check(self, unpacker: Unpacker) -> None:
        """Unpack a small body now, so that one that cannot be is refused before the host key is looked at.

        `unpacker` may be one that is shared: nothing else runs in between.

        Raises: ProtocolError.
        """
        if not self._is_whole:
            return
        pieces = _Pieces(_SMALL_UNPACKED_BYTES)
        try:
            unpacker.feed(self._head, pieces.write)
        except TooLarge:
            return  # small only while packed: goes the way of the large ones
        unpacker.finish()
        self._small = pieces.joined()

    def read(self, limit_bytes: int) -> bytes:
        """The unpacked message.

        Raises: ProtocolError (of it PayloadTooLarge from `limit_bytes` on).
        """
        if self._small is None:
            pieces = _Pieces(min(limit_bytes, self._limit_bytes))
            try:
                self._drain(pieces.write)
            except TooLarge as exc:
                raise PayloadTooLarge("the message is too large") from exc
            return pieces.joined()
        if len(self._small) >= limit_bytes:
            raise PayloadTooLarge("the message is too large")
        return self._small

    def spool(self, path: Path) -> int:
        """Write the unpacked file to `path`, which must not exist; returns its size in bytes.

        Raises: ProtocolError; TooLarge from the limit on.
        """
        with self._offload(lambda: path.open("xb", buffering=0)) as file:
            sink = _Capped(file, self._limit_bytes)
            if self._small is None:
                self._drain(sink.write)
            else:
                sink.write(self._small)
            return sink.size_bytes

    def _drain(self, write: Callable[[bytes], object]) -> None:
        unpacker = self._unpacker()
        block, self._head = self._head, b""
        is_last = self._is_whole
        while True:
            self._offload(_feeding(unpacker, block, write))
            if is_last:
                break
            block = self._source.read(_BLOCK_BYTES)
            is_last = len(block) < _BLOCK_BYTES
        unpacker.finish()


def _feeding(unpacker: Unpacker, block: bytes, write: Callable[[bytes], object]) -> Callable[[], None]:
    return lambda: unpacker.feed(block, write)


class _Pieces:
    """A sink in memory."""

    def __init__(self, limit_bytes: int) -> None:
        self._room_bytes = limit_bytes
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> None:
        self._room_bytes -= len(piece)
        if self._room_bytes <= 0:
            raise TooLarge("more bytes than a message may have")
        self._pieces.append(piece)

    def joined(self) -> bytes:
        return b"".join(self._pieces)


class _Capped:
    """A sink in a file."""

    def __init__(self, file: BinaryIO, limit_bytes: int) -> None:
        self._file = file
        self._limit_bytes = limit_bytes
        self.size_bytes = 0

    def write(self, piece: bytes) -> None:
        self.size_bytes += len(piece)
        if self.size_bytes >= self._limit_bytes:
            raise TooLarge("more bytes than a file may have")
        self._file.write(piece)
