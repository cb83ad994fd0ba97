"""Reads and writes SQLite's write-ahead log (the -wal file) of a working copy.

`storage.database.commit` reads which pages SQLite wrote; `storage.database.local.layers` appends frames that
SQLite then reads as its own. The file is a header of 32 bytes and frames of 24 bytes plus one page:

    frame header, 32-bit words:  page number | commit size | salt 1 | salt 2 | checksum 1 | checksum 2

The commit size is the database's size in pages in the last frame of a transaction, and 0 in all others.
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
    """The checksum of one frame as a linear function, modulo 2**32: see `_weights`.

    `sum 1 = a * old sum 1 + b * old sum 2 + dot(first, words)` with `step` = (a, b, c, d), and the same for
    sum 2 with c, d and `second`.
    """

    first: Words
    second: Words
    step: tuple[int, int, int, int]


@functools.lru_cache(maxsize=8)
def _weights(page_size: int) -> _Weights:
    # SQLite takes two words x, y at a time:
    #
    #     s1 += x + s2      in matrices, with  M = (1 1)  and  N = (1 0)
    #     s2 += y + s1      s' = M s + N (x y)     (1 2)           (1 1)
    #
    # After n rounds  s = M**n s_0 + sum over i of M**(n-1-i) N (x_i y_i).  So each word adds to the sums
    # independently of all others, times a weight that depends on its position only: numpy computes both sums
    # of many frames as two dot products, in place of a Python loop over a million words.
    #
    # The loop goes from the last pair to the first. (a b; c d) is M to the power of the rounds behind the
    # pair: its product with N gives the weights of x and y, its product with M serves the pair before.
    words = _FRAME_HEADER_WORDS + page_size // 4
    first, second = np.zeros(words, np.uint32), np.zeros(words, np.uint32)
    a, b, c, d = 1, 0, 0, 1
    # Of the header only page number and commit size are summed; salts and checksum keep the weight 0.
    summed = [0, 1, *range(_FRAME_HEADER_WORDS, words)]
    for at in range(len(summed) - 2, -1, -2):
        x, y = summed[at], summed[at + 1]
        # Rows of (a b; c d) N; then (a b; c d) M.
        first[x], first[y] = (a + b) & _MASK, b
        second[x], second[y] = (c + d) & _MASK, d
        a, b, c, d = (a + b) & _MASK, (a + 2 * b) & _MASK, (c + d) & _MASK, (c + 2 * d) & _MASK
    return _Weights(first, second, (a, b, c, d))


def _sums(rows: Words, weights: _Weights) -> tuple[Words, Words]:
    # Products and sums of uint32 wrap around, which is just the arithmetic modulo 2**32 that is wanted.
    return np.einsum("ij,j->i", rows, weights.first), np.einsum("ij,j->i", rows, weights.second)


def checksum(content: bytes, state: tuple[int, int], *, big_endian: bool) -> tuple[int, int]:
    """SQLite's checksum, word by word: for headers, and to test the vectorised one of `encode_frames`."""
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
        # The first frame's checksum continues from that of the header.
        page_size,
        big_endian=False,
        salts=salts,
        frames=0,
        checksum=sums,
    )


def read_header(descriptor: int) -> WalState:
    """The state of a log before its first frame. Raises: Corrupt."""
    head = os.pread(descriptor, HEADER_BYTES, 0)
    if len(head) != HEADER_BYTES:
        raise Corrupt("wal", f"{HEADER_BYTES} bytes of header", len(head))
    magic, version, page_size, _, salts, one, two = struct.unpack(">IIII8sII", head)
    # The magic also says in which byte order the checksum reads words.
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
    be what SQLite reported as committed: after it there may be stale frames with the same salts, which only
    the running checksum would reveal. Checksums are therefore not computed here. Raises: Corrupt.
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
    # The checksum in the last frame covers the whole log up to there.
    sums = struct.unpack_from(">II", header, _FRAME.size)
    return pages, commits, msgspec.structs.replace(state, frames=end, checksum=sums)


def encode_frames(
    state: WalState, numbers: Sequence[int], pages: bytes | bytearray | memoryview, commit: int
) -> tuple[bytes, WalState]:
    """Frames for `pages` that continue the log, and the state after them.

    The last frame commits a database of `commit` pages, unless that is 0.
    """
    count, size = len(numbers), state.page_size
    weights = _weights(size)
    frames = np.zeros((count, state.frame_bytes), np.uint8)
    frames[:, FRAME_HEADER_BYTES:] = np.frombuffer(pages, np.uint8).reshape(count, size)
    # Headers are filled in two steps: page number and commit size, which are summed, then the rest.
    heads = np.zeros((count, _FRAME_HEADER_WORDS), ">u4")
    heads[:, 0] = numbers
    heads[-1, 1] = commit
    frames[:, :FRAME_HEADER_BYTES] = heads.view(np.uint8)
    # Salts and checksum are still 0 here; their weights are 0 as well.
    words = frames.view(">u4" if state.big_endian else "<u4").astype(np.uint32, copy=False)
    one, two = _sums(words, weights)
    # Salts and checksum are written last, as they are not part of the sums.
    heads[:, _SALT_WORDS] = np.frombuffer(state.salts, ">u4")
    sums, last = _chain(one.tolist(), two.tolist(), weights.step, state.checksum)
    heads[:, _CHECKSUM_WORDS] = sums
    frames[:, :FRAME_HEADER_BYTES] = heads.view(np.uint8)
    after = msgspec.structs.replace(state, frames=state.frames + count, checksum=last)
    return frames.tobytes(), after


def _chain(
    one: list[int], two: list[int], step: tuple[int, int, int, int], state: tuple[int, int]
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """The checksum after each frame: each frame's begins with that of the frame before."""
    a, b, c, d = step
    sums = []
    for x, y in zip(one, two, strict=True):
        state = (a * state[0] + b * state[1] + x) & _MASK, (c * state[0] + d * state[1] + y) & _MASK
        sums.append(state)
    return sums, state
