"""The write-ahead log of a working copy: finds the pages that SQLite wrote, and writes frames it will take.

Source: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from storage.errors import Corrupt
from storage.lazy import LazyModule

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Words = npt.NDArray[np.uint32]
else:
    np = LazyModule("numpy")

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
_MAGIC_LITTLE, _MAGIC_BIG = 0x377F0682, 0x377F0683
_FORMAT_VERSION = 3007000
_MASK = 0xFFFFFFFF
_SALT_WORDS = slice(2, 4)
_CHECKSUM_WORDS = slice(4, 6)
_FRAME_HEADER_WORDS = 6
_FRAME = struct.Struct(">II8s")
"""What stands before the checksum in a frame's header: page number, commit size, salts."""


class WalState(msgspec.Struct, frozen=True):
    """A log up to its last commit: all that is needed to verify or write the next frame."""

    page_size: int
    big_endian: bool
    """Byte order of the words that the checksum adds up; all other numbers are big-endian."""
    salts: bytes
    frames: int
    checksum: tuple[int, int]

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame with its header."""
        return FRAME_HEADER_BYTES + self.page_size

    @property
    def end(self) -> int:
        """Offset behind the last committed frame."""
        return HEADER_BYTES + self.frames * self.frame_bytes

    def page_offset(self, frame: int) -> int:
        """Where the page image of a frame (the first is 0) begins."""
        return HEADER_BYTES + frame * self.frame_bytes + FRAME_HEADER_BYTES


class _Weights(msgspec.Struct, frozen=True):
    """The checksum is linear modulo 2**32: `next = step * state + dot(weights, words)`."""

    first: Words
    second: Words
    step: tuple[int, int, int, int]


@functools.lru_cache(maxsize=8)
def _weights(page_size: int) -> _Weights:
    words = _FRAME_HEADER_WORDS + page_size // 4
    first, second = np.zeros(words, np.uint32), np.zeros(words, np.uint32)
    a, b, c, d = 1, 0, 0, 1
    summed = [0, 1, *range(_FRAME_HEADER_WORDS, words)]
    for at in range(len(summed) - 2, -1, -2):
        x, y = summed[at], summed[at + 1]
        first[x], first[y] = (a + b) & _MASK, b
        second[x], second[y] = (c + d) & _MASK, d
        a, b, c, d = (a + b) & _MASK, (a + 2 * b) & _MASK, (c + d) & _MASK, (c + 2 * d) & _MASK
    return _Weights(first, second, (a, b, c, d))


def _sums(rows: Words, weights: _Weights) -> tuple[Words, Words]:
    return np.einsum("ij,j->i", rows, weights.first), np.einsum("ij,j->i", rows, weights.second)


def checksum(content: bytes, state: tuple[int, int], *, big_endian: bool) -> tuple[int, int]:
    """SQLite's checksum, word by word; for headers and as the measure of the fast way."""
    one, two = state
    words = struct.unpack(f"{'>' if big_endian else '<'}{len(content) // 4}I", content)
    for at in range(0, len(words), 2):
        one = (one + words[at] + two) & _MASK
        two = (two + words[at + 1] + one) & _MASK
    return one, two


def new_log(page_size: int, salts: bytes) -> tuple[bytes, WalState]:
    """The header of an empty log and its state."""
    head = struct.pack(">IIII8s", _MAGIC_LITTLE, _FORMAT_VERSION, page_size, 0, salts)
    sums = checksum(head, (0, 0), big_endian=False)
    return head + struct.pack(">II", *sums), WalState(
        page_size, big_endian=False, salts=salts, frames=0, checksum=sums
    )


def read_header(descriptor: int) -> WalState:
    """The state of a log before its first frame. Raises: Corrupt."""
    head = os.pread(descriptor, HEADER_BYTES, 0)
    if len(head) != HEADER_BYTES:
        raise Corrupt("wal", f"{HEADER_BYTES} bytes of header", len(head))
    magic, version, page_size, _, salts, one, two = struct.unpack(">IIII8sII", head)
    if magic not in {_MAGIC_LITTLE, _MAGIC_BIG} or version != _FORMAT_VERSION:
        raise Corrupt("wal", "a header of version 3007000", head[:8].hex())
    if not 512 <= page_size <= 65536 or page_size & (page_size - 1):
        raise Corrupt("wal", "a page size", page_size)
    big_endian = magic == _MAGIC_BIG
    if checksum(head[:24], (0, 0), big_endian=big_endian) != (one, two):
        raise Corrupt("wal", "the header's checksum", (one, two))
    return WalState(page_size, big_endian, salts, 0, (one, two))


def read_frame_headers(descriptor: int, state: WalState, end: int) -> tuple[list[int], list[int], WalState]:
    """Page number and commit size of the frames from `state.frames` up to `end`, and the state behind them.

    The commit size is that of the database in pages for the last frame of a transaction, else 0. `end` must
    be what SQLite has committed: behind it there may be stale frames with the same salts, which only the
    running checksum would tell. Raises: Corrupt.
    """
    pages, commits = [], []
    offset, header = state.end, b""
    for frame in range(state.frames, end):
        header = os.pread(descriptor, FRAME_HEADER_BYTES, offset)
        if len(header) != FRAME_HEADER_BYTES:
            raise Corrupt("wal", f"{end} frames", frame)
        page, commit, salts = _FRAME.unpack_from(header)
        if salts != state.salts:
            raise Corrupt("wal", "frames of this log", "another salt")
        pages.append(page)
        commits.append(commit)
        offset += state.frame_bytes
    sums = struct.unpack_from(">II", header, _FRAME.size)
    return pages, commits, msgspec.structs.replace(state, frames=end, checksum=sums)


def encode_frames(
    state: WalState, numbers: Sequence[int], pages: bytes | bytearray | memoryview, commit: int
) -> tuple[bytes, WalState]:
    """Frames for `pages` that continue the log; the last one commits `commit` pages unless that is 0."""
    count, size = len(numbers), state.page_size
    weights = _weights(size)
    frames = np.zeros((count, state.frame_bytes), np.uint8)
    frames[:, FRAME_HEADER_BYTES:] = np.frombuffer(pages, np.uint8).reshape(count, size)
    heads = np.zeros((count, _FRAME_HEADER_WORDS), ">u4")
    heads[:, 0] = numbers
    heads[-1, 1] = commit
    frames[:, :FRAME_HEADER_BYTES] = heads.view(np.uint8)
    words = frames.view(">u4" if state.big_endian else "<u4").astype(np.uint32, copy=False)
    one, two = _sums(words, weights)
    heads[:, _SALT_WORDS] = np.frombuffer(state.salts, ">u4")
    sums, last = _chain(one.tolist(), two.tolist(), weights.step, state.checksum)
    heads[:, _CHECKSUM_WORDS] = sums
    frames[:, :FRAME_HEADER_BYTES] = heads.view(np.uint8)
    after = msgspec.structs.replace(state, frames=state.frames + count, checksum=last)
    return frames.tobytes(), after


def _chain(
    one: list[int], two: list[int], step: tuple[int, int, int, int], state: tuple[int, int]
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    a, b, c, d = step
    sums = []
    for x, y in zip(one, two, strict=True):
        state = (a * state[0] + b * state[1] + x) & _MASK, (c * state[0] + d * state[1] + y) & _MASK
        sums.append(state)
    return sums, state
