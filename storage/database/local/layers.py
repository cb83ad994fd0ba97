"""Writes stored pages into local files: a snapshot into a new base, a delta into the log of a copy.

Used by `storage.database.assemble`. While a delta is applied, the database checksum is carried along, so that
no other page has to be read:

    checksum after = checksum before
                     XOR hash of each replaced page  XOR hash of each new page  XOR hash of each page cut off

It must equal the checksum of the chain entry, else the result is discarded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from storage.database.format.pages import Bytes, PageBlock, lock_page, page_hashes, pages_checksum
from storage.database.local.image import Image, Layout, whole_blocks
from storage.database.local.wal import WalState, encode_frames, new_log
from storage.errors import Corrupt
from storage.types import ChainEntry


class BaseWriter:
    """Writes the pages of a whole database into a new file, and computes its checksum on the way."""

    def __init__(self, path: Path, page_size: int, page_count: int) -> None:
        self._page_size = page_size
        self.checksum = 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.truncate(self._file, page_count * page_size)

    def add(self, numbers: Sequence[int], pages: Bytes) -> None:
        """Write ascending pages at their offsets; each run of consecutive ones with one call."""
        size, view = self._page_size, memoryview(pages)
        self.checksum ^= pages_checksum(numbers, view, size)
        start = 0
        for at in range(1, len(numbers) + 1):
            # The run of consecutive pages from `start` ends here.
            if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
                _write_all(self._file, view[start * size : at * size], (numbers[start] - 1) * size)
                start = at

    def add_image(self, image: Image) -> None:
        """Write all pages of an image."""
        for numbers in whole_blocks(image.layout):
            self.add(numbers, image.pages(numbers))

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class DeltaWriter:
    """Appends one delta, as one transaction, to the log of a copy that no transaction uses."""

    def __init__(self, path: Path, log: Path, layout: Layout, entry: ChainEntry) -> None:
        if entry.page_size != layout.page_size:
            raise Corrupt(str(entry.last), layout.page_size, entry.page_size)
        self._before, self._entry = layout, entry
        self._log = os.open(log, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Frames after the layout's end are of a transaction that was never finished.
            self._state = layout.log or _start_log(self._log, layout)
            os.truncate(self._log, self._state.end)
            self._image = Image(path, log, layout)
        except OSError:
            os.close(self._log)
            raise
        self._in_log, self._hashes = dict(layout.in_log), dict[int, int]()
        self._checksum = layout.checksum
        self._held: PageBlock | None = None

    def add(self, numbers: Sequence[int], pages: Bytes) -> None:
        """Append the next ascending pages."""
        before = self._before
        # Pages that exist already are replaced: their old hashes are taken out of the checksum.
        old = [number for number in numbers if number <= before.page_count]
        for number, digest in zip(numbers, page_hashes(numbers, pages, before.page_size), strict=True):
            self._hashes[number] = digest
            self._checksum ^= digest
        self._checksum ^= pages_checksum(old, self._image.pages(old), before.page_size)
        # One block is held back: only the last frame of a transaction carries the commit size, and which
        # block is the last one is known in `finish`.
        self._flush(0)
        self._held = (numbers, pages)

    def _flush(self, commit: int) -> None:
        if self._held is None:
            return
        numbers, pages = self._held
        frames, after = encode_frames(self._state, numbers, pages, commit)
        _write_all(self._log, memoryview(frames), self._state.end)
        for at, number in enumerate(numbers):
            self._in_log[number] = self._state.page_offset(self._state.frames + at)
        self._state, self._held = after, None

    def finish(self) -> Layout:
        """Commit the transaction, and return the layout after it.

        Raises: Corrupt if the checksum is not the entry's.
        """
        before, entry = self._before, self._entry
        # Without a frame there is nothing that could carry the new size.
        if self._held is None and entry.page_count != before.page_count:
            raise Corrupt(str(entry.last), f"{before.page_count} pages", entry.page_count)
        self._flush(entry.page_count)
        self._checksum ^= cut_checksum(self._image, entry.page_count)
        if self._checksum != entry.checksum:
            raise Corrupt(f"version {entry.last}", f"{entry.checksum:016x}", f"{self._checksum:016x}")
        log = self._state if self._state.frames else None
        after = apply_deltas(before, self._in_log, entry.page_count, self._checksum, log)
        return hashed(after, before, self._hashes)

    def close(self) -> None:
        """Close the files, whether finished or not."""
        self._image.close()
        os.close(self._log)


def hashed(after: Layout, before: Layout, hashes: dict[int, int]) -> Layout:
    """`after` with the hashes that `before` has of pages in the log, and those of pages written since.

    `hashes`: page number -> hash.
    """
    at = after.in_log
    before.log_hashes.update((at[number], digest) for number, digest in hashes.items() if number in at)
    return msgspec.structs.replace(after, log_hashes=before.log_hashes)


def apply_deltas(
    before: Layout, in_log: dict[int, int], page_count: int, checksum: int, log: WalState | None
) -> Layout:
    """The layout after a commit that leaves `page_count` pages. `in_log` becomes part of the result."""
    if page_count < before.page_count:
        # Cut-off pages must not reappear from the log if the database grows again.
        for number in [number for number in in_log if number > page_count]:
            del in_log[number]
    # Nor from the base.
    base_pages = min(before.base_pages, page_count)
    return Layout(before.page_size, page_count, checksum, base_pages, in_log, log, before.log_hashes)


def cut_checksum(image: Image, page_count: int) -> int:
    """XOR of the hashes of the pages that are cut off when `page_count` remain."""
    total, size = 0, image.layout.page_size
    for number in range(page_count + 1, image.layout.page_count + 1):
        if number != lock_page(size):
            total ^= pages_checksum([number], image.page(number), size)
    return total


def _start_log(descriptor: int, layout: Layout) -> WalState:
    # The salts only have to differ from those of an older log: the checksum of the state serves.
    header, state = new_log(layout.page_size, layout.checksum.to_bytes(8, "big"))
    os.ftruncate(descriptor, 0)
    _write_all(descriptor, memoryview(header), 0)
    return state


def _write_all(descriptor: int, content: memoryview, offset: int) -> None:
    while content:
        # A write may be short, for example if the disk is nearly full.
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written
