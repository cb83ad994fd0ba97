"""Reads the pages of a working copy from its two files: the base, which is never written, and the log.

Used by commits, compaction and downloads to read a committed state while SQLite goes on. The newest
version of a page is in the log if the layout says so, else in the base:

    layout.in_log   {3: offset, 4: offset, 9: offset}
    log (-wal)      [header][hdr|page 3][hdr|page 4][hdr|page 9] ...
    base            [page 1][page 2][page 3, old][page 4, old][page 5] ...   up to layout.base_pages

A page in neither (the database has grown, and SQLite has not written it yet) is all zeros.
Every page that is read is compared with the hash kept when it was written: a file beside the base holds the
hashes of the base, the layout those of the log.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from storage.database.format.pages import Bytes, lock_page, page_hashes, pages_checksum, pages_per_block
from storage.database.local.wal import FRAME_HEADER_BYTES, WalState
from storage.errors import Corrupt
from storage.lazy import LazyModule
from storage.types import Offload

if TYPE_CHECKING:
    import numpy as np
else:
    np = LazyModule("numpy")

_FEW_PAGES = 2
_PAGES_PER_READ = 500
"""The kernel fills at most 1024 pieces by one call, and between two pages of a log is a header."""


class Layout(msgspec.Struct, frozen=True):
    """Where each page of one committed state lies."""

    page_size: int
    page_count: int
    checksum: int
    base_pages: int
    """Pages up to this one are read from the base unless `in_log` has them; others were never written."""
    in_log: dict[int, int]
    """Page number -> offset in the log. Never changed once the layout is made."""
    log: WalState | None
    """None while there is no log."""
    log_hashes: dict[int, int] = {}
    """Offset in the log -> hash of the page there, as far as known. Shared by all layouts of a copy, since a
    committed frame is never overwritten or moved."""

    def log_frames(self) -> int:
        """Length of the log up to this state, in frames."""
        return 0 if self.log is None else self.log.frames

    def log_bytes(self) -> int:
        """Length of the log up to this state."""
        return 0 if self.log is None else self.log.end


def hashes_path(base: Path) -> Path:
    """The file of page hashes beside a base: 8 bytes for each page, little-endian, in order."""
    return base.with_name(base.name + "-sums")


class Image:
    """Reads the pages of a layout. Keeps its own descriptors, so the files may be unlinked meanwhile.

    A page of the base is verified if the base has a file of hashes (`hashes_path`). All methods that read
    raise Corrupt for a page that differs from what was written, and OSError for a file that is too short.
    """

    def __init__(self, base: Path, log: Path, layout: Layout) -> None:
        self.layout = layout
        self._name = base.name
        self._base = os.open(base, os.O_RDONLY | os.O_CLOEXEC)
        self._log = self._hashes = -1
        try:
            if layout.log is not None:
                self._log = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
            with contextlib.suppress(FileNotFoundError):
                self._hashes = os.open(hashes_path(base), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptors; calling it again does nothing."""
        for descriptor in (self._base, self._log, self._hashes):
            if descriptor >= 0:
                os.close(descriptor)
        self._base = self._log = self._hashes = -1

    def page(self, number: int) -> bytes:
        """One page; zeros if it was never written."""
        layout, size = self.layout, self.layout.page_size
        offset = layout.in_log.get(number)
        if offset is None:
            if number > layout.base_pages:
                return bytes(size)
            content = os.pread(self._base, size, (number - 1) * size)
            if len(content) == size:
                self._check_base(number, content)
        else:
            content = os.pread(self._log, size, offset)
            if len(content) == size:
                self._check_log([number], offset, content)
        if len(content) != size:
            raise OSError(f"page {number} is cut short")
        return content

    def _check_base(self, first: int, pages: Bytes) -> None:
        """Compare consecutive pages of the base with their hashes. Raises: Corrupt."""
        if self._hashes < 0:
            return
        count = len(pages) // self.layout.page_size
        found = page_hashes(range(first, first + count), pages, self.layout.page_size)
        stored = os.pread(self._hashes, 8 * count, 8 * (first - 1))
        if stored != np.array(found, "<u8").tobytes():
            # The modification time marks a base as unchanged (see `cache._mark_ns`). Changing it stops all
            # copies that share the file from committing, and makes the cache drop the base.
            with contextlib.suppress(OSError):
                os.utime(self._base, ns=(0, 0))
            raise Corrupt(self._name, "pages as they were written", f"others, from page {first}")

    def _check_log(self, numbers: Sequence[int], offset: int, pages: Bytes) -> None:
        """Compare pages of consecutive frames with their hashes, as far as known. Raises: Corrupt."""
        known, step = self.layout.log_hashes, self.layout.page_size + FRAME_HEADER_BYTES
        for digest in page_hashes(numbers, pages, self.layout.page_size):
            if known.get(offset, digest) != digest:
                raise Corrupt(f"{self._name}-wal", "pages as they were written", f"another page at {offset}")
            offset += step

    def pages(self, numbers: Sequence[int]) -> bytes | bytearray:
        """Several ascending pages, concatenated.

        A run is a sequence of pages that are consecutive in one file; each is read with one system call.
        """
        if len(numbers) < _FEW_PAGES:
            return b"".join(map(self.page, numbers))
        content = bytearray(len(numbers) * self.layout.page_size)
        view, start = memoryview(content), 0
        while start < len(numbers):
            start = self._read_run(numbers, start, view)
        # SQLite never uses the lock page, so the file may contain anything there: it counts as zeros.
        skipped = lock_page(self.layout.page_size)
        if numbers[0] <= skipped <= numbers[-1] and skipped in numbers:
            at = numbers.index(skipped) * self.layout.page_size
            content[at : at + self.layout.page_size] = bytes(self.layout.page_size)
        return content

    def _read_run(self, numbers: Sequence[int], start: int, view: memoryview) -> int:
        """Read the longest run that begins at index `start` of `numbers` into its place in `view`.

        Returns the index at which the next run begins.
        """
        layout, size = self.layout, self.layout.page_size
        find, end = layout.in_log.get, start + 1
        offset = find(numbers[start])
        if offset is not None:
            # In the log: the run goes on while the next page's frame directly follows this one's.
            step = size + FRAME_HEADER_BYTES
            while end < len(numbers) and find(numbers[end]) == offset + (end - start) * step:
                end += 1
            self._read_frames(offset, view[start * size : end * size])
            self._check_log(numbers[start:end], offset, view[start * size : end * size])
            return end
        # Not in the log.
        number, last = numbers[start], layout.base_pages
        if number > last:
            return end  # never written: `view` is zeros already
        # In the base: the run goes on while numbers are consecutive, within the base, and not in the log.
        while (
            end < len(numbers)
            and numbers[end] == number + end - start <= last
            and (not layout.in_log or numbers[end] not in layout.in_log)
        ):
            end += 1
        if (
            os.preadv(self._base, [view[start * size : end * size]], (number - 1) * size)
            != (end - start) * size
        ):
            raise OSError(f"pages from {number} are cut short")
        self._check_base(number, view[start * size : end * size])
        return end

    def _read_frames(self, offset: int, view: memoryview) -> None:
        """Read the pages of consecutive frames; `offset` is that of the first page.

        Pages go to `view`; the frame headers between them are read into a buffer that is thrown away.
        """
        size = self.layout.page_size
        headers = bytearray(FRAME_HEADER_BYTES)
        for first in range(0, len(view), size * _PAGES_PER_READ):
            parts: list[memoryview | bytearray] = []
            # One system call: page, header, page, header, ..., page.
            for at in range(first, min(first + size * _PAGES_PER_READ, len(view)), size):
                parts += (view[at : at + size], headers)
            parts.pop()  # no header follows the last page
            wanted = sum(map(len, parts))
            if os.preadv(self._log, parts, offset) != wanted:
                raise OSError(f"frames from {offset} are cut short")
            offset += wanted + FRAME_HEADER_BYTES


def image_checksum(image: Image) -> int:
    """The database checksum, computed from all pages."""
    total = 0
    for numbers in whole_blocks(image.layout):
        total ^= pages_checksum(numbers, image.pages(numbers), image.layout.page_size)
    return total


def whole_blocks(layout: Layout) -> Iterator[range]:
    """All page numbers of a database but the lock page, ascending, in ranges of at most one block."""
    step, skipped, first = pages_per_block(layout.page_size), lock_page(layout.page_size), 1
    while first <= layout.page_count:
        # A range ends before the lock page, and the next one starts after it.
        if first == skipped:
            first += 1
            continue
        end = min(first + step, layout.page_count + 1)
        if first < skipped < end:
            end = skipped
        yield range(first, end)
        first = end


class PageReader:
    """The committed state of a checkout as the bytes of an SQLite file, for downloads.

    Later commits to the same working copy do not disturb it: committed frames are never moved.
    """

    def __init__(self, image: Image, offload: Offload[Any]) -> None:
        self._image, self._offload = image, offload

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return self._image.layout.page_count * self._image.layout.page_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def blocks(self, bytes_per_block: int = 1 << 20) -> Iterator[bytes]:
        """The file from start to end; the reader is closed after the last block."""
        layout = self._image.layout
        step = max(1, bytes_per_block // layout.page_size)
        try:
            for first in range(1, layout.page_count + 1, step):
                numbers = range(first, min(first + step, layout.page_count + 1))
                block: bytes = self._offload(functools.partial(self._block, numbers))
                yield block
        finally:
            self.close()

    def _block(self, numbers: Sequence[int]) -> bytes:
        return bytes(self._image.pages(numbers))

    def close(self) -> None:
        """Close the files; calling it again does nothing."""
        self._image.close()
