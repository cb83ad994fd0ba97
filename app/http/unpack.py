"""Bounded unpacking of request bodies: zstd, gzip or as they are.

However large a hostile body unpacks, no step holds more than about 32 MiB of it, and a sink
that refuses to go on stops it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard

from app.errors import ProtocolError

ZSTD_WINDOW_BYTES = 8 * 1024 * 1024
"""What the zstd format asks every decoder to support; Anki's clients use 2 MiB."""

_SLICE_BYTES = 1024
"""A zstd block of 4 bytes can stand for 128 KiB: so much input gives 32 MiB at the worst."""

_SPARE_BYTES = 4096
_UNKNOWN = -1
"""Real clients do not tell the size beforehand."""

_GZIP_STEP_BYTES = 256 * 1024

Write = Callable[[bytes], object]


class Unpacker(Protocol):
    """One body on its way through."""

    def feed(self, block: bytes, write: Write) -> None:
        """Unpack the next bytes; whatever `write` raises ends it.

        Raises: ProtocolError.
        """

    def finish(self) -> None:
        """Say that no more bytes come.

        Raises: ProtocolError, if the body stops in the middle.
        """


def unpacked_zstd(packed: bytes, most_bytes: int) -> bytes | None:
    """A whole body at once, where it is sound and was packed already before; None says nothing.

    As media mostly are. In one step the unpacker would not be stopped by its sink, but this one
    gets no more room than such a body needs, a tenth of what slices of it would cost.
    """
    room_bytes = min(most_bytes, len(packed) + len(packed) // 8 + _SPARE_BYTES)
    try:
        if zstandard.frame_content_size(packed) != _UNKNOWN:
            return None  # it would be given as much room as it asks for
        return zstd_decompressor().decompress(packed, max_output_size=room_bytes, allow_extra_data=True)
    except zstandard.ZstdError:
        return None


class ZstdUnpacker:
    """The first zstd frame; whatever follows it is ignored, as the official server does."""

    def __init__(self, decompressor: zstandard.ZstdDecompressor | None = None) -> None:
        decompressor = decompressor or zstd_decompressor()
        self._frame = decompressor.decompressobj(write_size=32 * 1024)
        self._started = False

    def feed(self, block: bytes, write: Write) -> None:
        """See Unpacker."""
        frame = self._frame
        self._started = self._started or bool(block)
        try:
            for start in range(0, len(block), _SLICE_BYTES):
                if frame.eof:
                    return
                if piece := frame.decompress(block[start : start + _SLICE_BYTES]):
                    write(piece)
        except zstandard.ZstdError as exc:
            raise ProtocolError("the body is not zstd") from exc

    def finish(self) -> None:
        """See Unpacker."""
        if not self._frame.eof:
            raise ProtocolError("the zstd body is truncated" if self._started else "the body is empty")


class GzipUnpacker:
    """The first gzip member; whatever follows it is ignored."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)

    def feed(self, block: bytes, write: Write) -> None:
        """See Unpacker."""
        member = self._member
        try:
            while not member.eof:
                piece = member.decompress(block, _GZIP_STEP_BYTES)
                if piece:
                    write(piece)
                block = member.unconsumed_tail
                if not block and len(piece) < _GZIP_STEP_BYTES:
                    return
        except zlib.error as exc:
            raise ProtocolError("the data is not gzip") from exc

    def finish(self) -> None:
        """See Unpacker."""
        if not self._member.eof:
            raise ProtocolError("the gzip data is truncated")


class PlainUnpacker:
    """A body that is not packed."""

    def feed(self, block: bytes, write: Write) -> None:
        """See Unpacker."""
        if block:
            write(block)

    def finish(self) -> None:
        """Any end will do."""


def zstd_decompressor() -> zstandard.ZstdDecompressor:
    """A decompressor with a bounded window; costs 14 us to make, and serves one frame at a time."""
    return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
