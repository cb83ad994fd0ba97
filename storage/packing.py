"""zstd compressors that are used again: to make one costs more than to pack a small message.

Refuses to keep what has grown: large contents get a compressor of their own.
"""

from __future__ import annotations

from typing import Any, Final

import zstandard

_KEPT_BYTES: Final = 128 << 10


class Packer:
    """Packs into frames of one kind. Any number of threads may use it."""

    def __init__(self, level: int, **options: Any) -> None:
        """`options` as of `zstandard.ZstdCompressor`."""
        self._level, self._options = level, options
        self._free: list[zstandard.ZstdCompressor] = []

    def pack(self, content: bytes | bytearray | memoryview) -> bytes:
        """One frame that tells its size."""
        try:
            compressor = self._free.pop()
        except IndexError:
            compressor = zstandard.ZstdCompressor(level=self._level, **self._options)
        frame = compressor.compress(content)
        if len(content) <= _KEPT_BYTES:
            self._free.append(compressor)
        return frame
