"""The payload of one request: read into memory where it is a message, into a file where it is a file.

Small bodies are unpacked on the spot; of large ones nothing but the block at hand is in memory. Between
them are files that are held while there is `Room`, and go to the disk like large ones when there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

from app.errors import PayloadTooLarge
from app.http.unpack import Unpacker, ZstdUnpacker, unpacked_zstd
from storage.errors import TooLarge, Unavailable
from storage.types import Offload

SMALL_BYTES = 64 * 1024
"""A body that ends within so many bytes is unpacked inline, without a hop to another thread."""

HELD_BYTES = 4 * 1024 * 1024
"""A file of at most so many bytes, packed and unpacked, may be held in memory. Clients stop filling a
zip of media once it has 2.5 MiB."""

_INLINE_BYTES = 1024 * 1024
"""A body of so many bytes that was packed before is unpacked in less time than a hop to a thread takes."""

_SMALL_UNPACKED_BYTES = 1024 * 1024
_BLOCK_BYTES = 256 * 1024


class Source(Protocol):
    """Where the packed bytes come from: the connection, or a spooled form field."""

    def read(self, size: int, /) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""


class Room:
    """The memory that all requests of a process together may hold bodies in."""

    def __init__(self, size_bytes: int) -> None:
        self.left_bytes = size_bytes
        self._owner_bytes = size_bytes // 2
        self._by_owner: dict[str, int] = {}

    def share(self, owner: str) -> Share:
        """One request's part of it, which grows as it is taken; all of it comes back after its block.

        The requests of one owner get at most half of the room.
        """
        return Share(self, owner)

    def take(self, owner: str, size_bytes: int) -> bool:
        """For `Share`: whether there was so much more room."""
        owned_bytes = self._by_owner.get(owner, 0) + size_bytes
        if size_bytes > self.left_bytes or owned_bytes > self._owner_bytes:
            return False
        self.left_bytes -= size_bytes
        self._by_owner[owner] = owned_bytes
        return True

    def give_back(self, owner: str, size_bytes: int) -> None:
        """For `Share`."""
        self.left_bytes += size_bytes
        self._by_owner[owner] -= size_bytes
        if not self._by_owner[owner]:
            del self._by_owner[owner]


class Share:
    """What one request holds of a `Room`; a context manager. To be used by greenlets, not by threads."""

    __slots__ = ("_owner", "_room", "taken_bytes")

    def __init__(self, room: Room, owner: str) -> None:
        self._room, self._owner = room, owner
        self.taken_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give all of it back."""
        if self.taken_bytes:
            self._room.give_back(self._owner, self.taken_bytes)
            self.taken_bytes = 0

    def take(self, size_bytes: int) -> bool:
        """Whether there was so much more room."""
        is_taken = self._room.take(self._owner, size_bytes)
        self.taken_bytes += size_bytes if is_taken else 0
        return is_taken

    def need(self, size_bytes: int) -> None:
        """Take so much more room.

        Raises: Unavailable.
        """
        if not self.take(size_bytes):
            raise Unavailable("too many large requests at the same time")


class Body:
    """Packed bytes that can be taken once, by `read`, `spool`, or `hold` and then `spool`."""

    def __init__(
        self, source: Source, unpacker: Callable[[], Unpacker], offload: Offload[Any], limit_bytes: int
    ) -> None:
        self._source = source
        self._unpacker = unpacker
        self._offload = offload
        self._limit_bytes = limit_bytes
        self._held = [source.read(SMALL_BYTES)]
        self._is_whole = len(self._held[0]) < SMALL_BYTES
        self._small: bytes | None = None
        self.is_small = False
        """Whether all of it has come and was unpacked by `check`: reading it takes nothing more."""

    def check(self, unpacker: Unpacker) -> None:
        """Unpack a small body now, so that one that cannot be is refused before the host key is looked at.

        `unpacker` may be one that is shared: nothing else runs in between.

        Raises: ProtocolError.
        """
        if not self._is_whole:
            return
        pieces = _Pieces(_SMALL_UNPACKED_BYTES)
        try:
            unpacker.feed(self._held[0], pieces.write)
        except TooLarge:
            return  # small only while packed: goes the way of the large ones
        unpacker.finish()
        self._small, self.is_small = pieces.joined(), True

    def read(self, limit_bytes: int, share: Share) -> bytes:
        """The unpacked message; one that is not small takes room of `share`.

        Raises: ProtocolError (of it PayloadTooLarge from `limit_bytes` on); Unavailable if there is no room.
        """
        if self._small is None:
            pieces = _Pieces(min(limit_bytes, self._limit_bytes))
            try:
                for _ in self._drain(pieces.write):
                    share.need(pieces.size_bytes - share.taken_bytes)
            except TooLarge as exc:
                raise PayloadTooLarge("the message is too large") from exc
            return pieces.joined()
        if len(self._small) >= limit_bytes:
            raise PayloadTooLarge("the message is too large")
        return self._small

    def hold(self, share: Share) -> bytes | None:
        """The unpacked file, where it is no larger than `HELD_BYTES` and `share` has room for it.

        None otherwise; then `spool` takes it, with all that was read so far.

        Raises: ProtocolError.
        """
        if self._small is not None:
            return self._small
        packed_bytes = len(self._held[0])
        while not self._is_whole:
            if packed_bytes > HELD_BYTES or not share.take(_BLOCK_BYTES):
                return None
            self._held.append(self._source.read(_BLOCK_BYTES))
            packed_bytes += len(self._held[-1])
            self._is_whole = len(self._held[-1]) < _BLOCK_BYTES
        content = self._unpacked_at_once() if packed_bytes <= _INLINE_BYTES else None
        if content is None:
            content = self._offload(self._unpacked)
        return content if content is not None and share.take(len(content)) else None

    @property
    def _most_held_bytes(self) -> int:
        return min(HELD_BYTES, self._limit_bytes - 1)

    def _unpacked_at_once(self) -> bytes | None:
        """All of a whole body, where that takes one step; None says nothing."""
        if self._unpacker is not ZstdUnpacker:
            return None
        return unpacked_zstd(b"".join(self._held), self._most_held_bytes)

    def _unpacked(self) -> bytes | None:
        """All of a whole body, or None if it is too large."""
        content = self._unpacked_at_once()
        if content is not None:
            return content
        unpacker, pieces = self._unpacker(), _Pieces(self._most_held_bytes + 1)
        try:
            for block in self._held:
                unpacker.feed(block, pieces.write)
        except TooLarge:
            return None
        unpacker.finish()
        return pieces.joined()

    def spool(self, path: Path) -> int:
        """Write the unpacked file to `path`, which must not exist; returns its size in bytes.

        Raises: ProtocolError; TooLarge from the limit on.
        """
        with self._offload(lambda: path.open("xb", buffering=0)) as file:
            sink = _Capped(file, self._limit_bytes)
            if self._small is None:
                for _ in self._drain(sink.write):
                    pass
            else:
                sink.write(self._small)
            return sink.size_bytes

    def _drain(self, write: Callable[[bytes], object]) -> Iterator[None]:
        """Unpack block by block; yields after each."""
        unpacker = self._unpacker()
        for block in self._blocks():
            self._offload(_feeding(unpacker, block, write))
            yield
        unpacker.finish()

    def _blocks(self) -> Iterator[bytes]:
        while self._held:
            yield self._held.pop(0)
        while not self._is_whole:
            block = self._source.read(_BLOCK_BYTES)
            self._is_whole = len(block) < _BLOCK_BYTES
            yield block


def _feeding(unpacker: Unpacker, block: bytes, write: Callable[[bytes], object]) -> Callable[[], None]:
    return lambda: unpacker.feed(block, write)


class _Pieces:
    """A sink in memory."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._pieces: list[bytes] = []
        self.size_bytes = 0

    def write(self, piece: bytes) -> None:
        self.size_bytes += len(piece)
        if self.size_bytes >= self._limit_bytes:
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
        rest = memoryview(piece)
        while rest:  # a disk that becomes full takes a part first, and says so only when asked again
            rest = rest[self._file.write(rest) :]
