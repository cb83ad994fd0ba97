"""A pool of zstd compressors, as creating one costs more than compressing a small message.

Used for answers, journal bodies and page blocks.
"""

from __future__ import annotations

from typing import Any, Final

import zstandard

_KEPT_BYTES: Final = 128 << 10


class Packer:
    """Compresses with fixed options. Any number of threads may use it."""

    def __init__(self, level: int, **options: Any) -> None:
        """`options` are those of `zstandard.ZstdCompressor`."""
        self._level, self._options = level, options
        self._free: list[zstandard.ZstdCompressor] = []

    def pack(self, content: bytes | bytearray | memoryview) -> bytes:
        """One frame, with the size of its content in the header unless `options` say otherwise."""
        try:
            compressor = self._free.pop()
        except IndexError:
            compressor = zstandard.ZstdCompressor(level=self._level, **self._options)
        frame = compressor.compress(content)
        if len(content) <= _KEPT_BYTES:  # a compressor grows with its content, and large ones are not kept
            self._free.append(compressor)
        return frame
