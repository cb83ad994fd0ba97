"""Encodes and decodes the objects that hold pages: a snapshot has all of a version, a delta changed ones.

Both have one format, written and read in one pass (`storage/README.md` has it byte by byte):

    header | commit ids | block ... | end of blocks | index of blocks | checksum of the database | SHA-256

A block is a zstd frame of page numbers and pages. The parser raises Corrupt for anything that is not exactly
what its chain entry says.
"""

from __future__ import annotations

import functools
import hashlib
import operator
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import xxhash
import zstandard

from storage.errors import Corrupt
from storage.lazy import LazyModule
from storage.packing import Packer
from storage.types import ChainEntry, EntryKind

if TYPE_CHECKING:
    import numpy as np
else:
    np = LazyModule("numpy")

MAGIC = b"ankipage"
FORMAT = 1
BLOCK_BYTES = 1 << 20
"""Raw bytes of pages in one block, at most."""
TRAILER_BYTES = 56

_HEADER = struct.Struct("<8sBcHIIIQQQQQ")
_BLOCK = struct.Struct("<II")
_INDEX = struct.Struct("<QII")
_TRAILER = struct.Struct("<QQQ")
_LOCK_BYTE = 0x40000000

Bytes = bytes | bytearray | memoryview
PageBlock = tuple[Sequence[int], Bytes]
"""Ascending page numbers and their pages, concatenated."""


class PageHeader(msgspec.Struct, frozen=True):
    """The header of an object."""

    kind: EntryKind
    page_size: int
    page_count: int
    """Pages of the database at version `last`."""
    first: int
    last: int
    token: int
    parent: int
    """Checksum of version `first - 1`; 0 for a snapshot."""
    time_ms: int
    commit_ids: tuple[str, ...]


def lock_page(page_size: int) -> int:
    """The page at 1 GiB that SQLite never uses: it is not stored and not part of the checksum.

    Source: https://www.sqlite.org/fileformat2.html#the_lock_byte_page
    """
    return _LOCK_BYTE // page_size + 1


def page_hashes(numbers: Sequence[int], pages: Bytes, page_size: int) -> list[int]:
    """The 64-bit hash of each page, seeded with the page's number."""
    view, digest = memoryview(pages), xxhash.xxh3_64_intdigest
    return [
        digest(view[at : at + page_size], number)
        for at, number in zip(range(0, len(view), page_size), numbers, strict=True)
    ]


def pages_checksum(numbers: Sequence[int], pages: Bytes, page_size: int) -> int:
    """XOR of the hashes of these pages."""
    return functools.reduce(operator.xor, page_hashes(numbers, pages, page_size), 0)


def page_packer(level: int) -> Packer:
    """The compressor for the blocks of an object."""
    return Packer(level, write_checksum=True, write_content_size=True)


def pages_per_block(page_size: int) -> int:
    """How many pages a full block holds."""
    return max(1, BLOCK_BYTES // page_size)


HEADER_BYTES = _HEADER.size + 4096
"""What is read of an object's beginning: its header, with the ids of the commits that it may hold."""


def read_facts(key: str, start: bytes, end: bytes, entry: ChainEntry) -> tuple[ChainEntry, int]:
    """The chain entry of an object, and the checksum of the version before a delta (0 for a snapshot).

    `start` are the first bytes, `HEADER_BYTES` of them if there are so many, and `end` is the trailer;
    `entry` is what the key tells, with the object's size. The pages are not read. Raises: Corrupt.
    """
    if len(start) < _HEADER.size or len(end) != TRAILER_BYTES:
        raise Corrupt(key, "a header and a trailer", f"{len(start)} and {len(end)} bytes")
    magic, form, kind, ids_bytes, size, count, _, *place, parent, time_ms = _HEADER.unpack_from(start)
    found = (magic, form, kind, *place)
    expected = (MAGIC, FORMAT, entry.kind.value.encode(), entry.first, entry.last, entry.token)
    ids = start[_HEADER.size : _HEADER.size + ids_bytes]
    if found != expected or len(ids) != ids_bytes:
        raise Corrupt(key, expected, found)
    commit_ids = tuple(ids.decode(errors="replace").split("\n")) if ids else ()
    _, _, checksum = _TRAILER.unpack_from(end)
    facts = msgspec.structs.replace(
        entry, page_size=size, page_count=count, commit_ids=commit_ids, time_ms=time_ms,
        checksum=checksum, sha256=end[-32:],
    )  # fmt: skip
    return facts, parent


class PageWriter:
    """Writes one object into `sink`, block by block."""

    def __init__(self, header: PageHeader, sink: Callable[[bytes], object], packer: Packer) -> None:
        self._sink, self._sha256, self._packer = sink, hashlib.sha256(), packer
        self._index: list[bytes] = []
        self.size_bytes = 0
        ids = "\n".join(header.commit_ids).encode()
        self._write(
            _HEADER.pack(
                MAGIC, FORMAT, header.kind.value.encode(), len(ids), header.page_size, header.page_count, 0,
                header.first, header.last, header.token, header.parent, header.time_ms,
            )
        )  # fmt: skip
        self._write(ids)

    def _write(self, content: bytes) -> None:
        self._sha256.update(content)
        self.size_bytes += len(content)
        self._sink(content)

    def add(self, numbers: Sequence[int], pages: Bytes) -> None:
        """Write one block: at most `pages_per_block` pages, ascending, after all those of earlier blocks."""
        # Page numbers come before the pages, all in one frame, so that they are compressed and checksummed
        # together.
        raw = b"".join((np.array(numbers, "<u4").tobytes(), pages))
        frame = self._packer.pack(raw)
        # The index has the offset of the block, before its header is written.
        self._index.append(_INDEX.pack(self.size_bytes, len(numbers), numbers[0]))
        self._write(_BLOCK.pack(len(numbers), len(frame)) + frame)

    def finish(self, checksum: int) -> bytes:
        """Write index, database checksum and SHA-256, and return that SHA-256."""
        # A block of 0 pages marks the end of the blocks.
        self._write(_BLOCK.pack(0, len(self._index)))
        start = self.size_bytes
        self._write(b"".join(self._index))
        self._write(_TRAILER.pack(start, len(self._index), checksum))
        digest = self._sha256.digest()
        # The SHA-256 is not part of itself, so this bypasses `_write`.
        self._sink(digest)
        self.size_bytes += len(digest)
        return digest


class PageParser:
    """Reads the object of a chain entry from pieces as they arrive.

    Pages are given as soon as their block is complete, but only `finish` verifies them: until then the caller
    must not rely on them. All methods raise Corrupt.
    """

    def __init__(self, key: str, entry: ChainEntry) -> None:
        self._key, self._entry = key, entry
        self._sha256, self._buffer = hashlib.sha256(), bytearray()
        self._taken = 0
        self._header: PageHeader | None = None
        self._ended = False
        self._index: list[bytes] = []
        self._last_page = 0
        self.page_total = 0
        self._zstd = zstandard.ZstdDecompressor()

    @property
    def header(self) -> PageHeader:
        """The object's header, once enough bytes were fed."""
        if self._header is None:
            raise Corrupt(self._key, "a header", "too few bytes")
        return self._header

    def feed(self, piece: bytes) -> Iterator[PageBlock]:
        """Take the next bytes, and give the blocks that they complete."""
        # The object's last 32 bytes are its SHA-256, which does not cover itself.
        hashed = max(0, self._entry.size_bytes - 32 - self._taken - len(self._buffer))
        self._sha256.update(memoryview(piece)[:hashed])
        self._buffer += piece
        # Checked with each piece, so that a wrong object cannot fill the memory.
        if self._taken + len(self._buffer) > self._entry.size_bytes:
            raise Corrupt(self._key, f"{self._entry.size_bytes} bytes", "more")
        # Not enough bytes for the header yet.
        if self._header is None and not self._read_header():
            return
        while not self._ended:
            block = self._read_block()
            if block is None:
                return
            yield block

    def finish(self) -> None:
        """Verify the object after all its bytes were fed."""
        entry = self._entry
        if not self._ended or self._taken + len(self._buffer) != entry.size_bytes:
            raise Corrupt(self._key, f"{entry.size_bytes} bytes", "fewer")
        # Index and trailer must be exactly those that the blocks give.
        index = b"".join(self._index)
        trailer = _TRAILER.pack(self._taken, len(self._index), entry.checksum)
        if self._buffer[:-32] != index + trailer:
            raise Corrupt(self._key, "an index and checksum of these blocks", "others")
        if not self._buffer[-32:] == entry.sha256 == self._sha256.digest():
            raise Corrupt(self._key, entry.sha256.hex(), self._sha256.hexdigest())
        # A snapshot has all pages but the lock page, if the database reaches that far.
        whole = entry.page_count - (entry.page_count >= lock_page(entry.page_size))
        if entry.kind == EntryKind.SNAPSHOT and self.page_total != whole:
            raise Corrupt(self._key, f"{whole} pages", self.page_total)

    def _take(self, count: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        self._taken += count
        return taken

    def _read_header(self) -> bool:
        if len(self._buffer) < _HEADER.size:
            return False
        magic, form, kind, ids_bytes, size, count, _, first, last, token, parent, time_ms = (
            _HEADER.unpack_from(self._buffer)
        )
        if magic != MAGIC or form != FORMAT:
            raise Corrupt(self._key, f"format {FORMAT} of {MAGIC!r}", bytes(self._buffer[:9]))
        # The commit ids follow the fixed part of the header.
        if len(self._buffer) < _HEADER.size + ids_bytes:
            return False
        entry = self._entry
        found = (kind, size, count, first, last, token)
        expected = (
            entry.kind.value.encode(), entry.page_size, entry.page_count,
            entry.first, entry.last, entry.token,
        )  # fmt: skip
        if found != expected:
            raise Corrupt(self._key, expected, found)
        ids = self._take(_HEADER.size + ids_bytes)[_HEADER.size :].decode(errors="replace")
        commit_ids = tuple(ids.split("\n")) if ids else ()
        self._header = PageHeader(entry.kind, size, count, first, last, token, parent, time_ms, commit_ids)
        return True

    def _read_block(self) -> PageBlock | None:
        if len(self._buffer) < _BLOCK.size:
            return None
        count, length = _BLOCK.unpack_from(self._buffer)
        if count == 0:
            self._take(_BLOCK.size)
            self._ended = True
            return None
        raw_bytes = count * (4 + self._entry.page_size)
        # A little more than zstd's own upper bound for bytes that do not compress.
        if count > pages_per_block(self._entry.page_size) or length > raw_bytes + raw_bytes // 128 + 1024:
            raise Corrupt(self._key, "a block of bounded size", (count, length))
        if len(self._buffer) < _BLOCK.size + length:
            return None
        start = self._taken
        raw = self._decompress(self._take(_BLOCK.size + length)[_BLOCK.size :], raw_bytes)
        numbers = np.frombuffer(raw, "<u4", count).tolist()
        self._check_order(numbers)
        self._index.append(_INDEX.pack(start, count, numbers[0]))
        self.page_total += count
        return numbers, memoryview(raw)[4 * count :]

    def _decompress(self, frame: bytes, raw_bytes: int) -> bytes:
        try:
            # Checked before decompression, so that a frame cannot expand to more than expected.
            if zstandard.frame_content_size(frame) != raw_bytes:
                raise Corrupt(self._key, f"a frame of {raw_bytes} bytes", "another size")
            raw = self._zstd.decompress(frame)
        except zstandard.ZstdError as exc:
            raise Corrupt(self._key, "a zstd frame", str(exc)) from exc
        if len(raw) != raw_bytes:
            raise Corrupt(self._key, f"{raw_bytes} bytes", len(raw))
        return raw

    def _check_order(self, numbers: list[int]) -> None:
        # Strictly ascending through all blocks, so no page can occur twice.
        before = self._last_page
        for number in numbers:
            if number <= before:
                raise Corrupt(self._key, "ascending pages", numbers)
            before = number
        self._last_page = before
        if before > self._entry.page_count or lock_page(self._entry.page_size) in numbers:
            raise Corrupt(self._key, f"pages up to {self._entry.page_count}", before)
