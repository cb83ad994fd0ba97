"""Makes the object of a commit: a delta of the pages that SQLite wrote to the log, or a snapshot of all.

Used by `storage.database.store`, which puts the object and then changes the head record, and by compaction.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

import msgspec

from storage.database.adopt import read_file_layout
from storage.database.format.pages import (
    PageHeader,
    PageWriter,
    lock_page,
    page_hashes,
    page_packer,
    pages_checksum,
    pages_per_block,
)
from storage.database.limits import Limits
from storage.database.local.checkout import Checkout, Mark, local_disk, log_path
from storage.database.local.image import Image, Layout, whole_blocks
from storage.database.local.layers import apply_deltas, cut_checksum, hashed
from storage.database.local.wal import read_frame_headers, read_header
from storage.errors import Corrupt
from storage.lazy import LazyModule
from storage.packing import Packer
from storage.types import ChainEntry, EntryKind, Head

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    np = LazyModule("numpy")


_COUNTED = (("notes", "cards", "revlog"), ("count", "bytes"))
"""Stamps of a collection, and of a media index: see `ChainEntry.counts`."""


class Commit(msgspec.Struct, frozen=True):
    """What the caller of a commit gives besides the pages."""

    commit_id: str
    answer: bytes
    """Kept in the head, so that a client whose answer was lost gets it again."""
    now_ms: int
    stamps: dict[str, int | bool]
    session: tuple[str, int] | None
    """Session id and `seq` that it must have; None for a commit that ends any session."""

    @property
    def counts(self) -> tuple[int, ...]:
        """What the version's entry tells people of its content. Costs some bytes of the head each."""
        for names in _COUNTED:
            if names[0] in self.stamps:
                return tuple(int(self.stamps[name]) for name in names)
        return ()


class LocalChange(msgspec.Struct, frozen=True):
    """What SQLite has committed since the checkout's layout."""

    layout: Layout
    touched: list[int]
    """Pages that may differ, ascending."""
    since: Mark | None = None
    """If the delta is cumulative: the earlier version to which it can be applied, too."""
    earlier: frozenset[int] = frozenset()
    """Pages that changed between that version and the checkout's."""

    @property
    def touched_bytes(self) -> int:
        """Size of the touched pages before compression."""
        return len(self.touched) * self.layout.page_size


class StoredObject(msgspec.Struct, frozen=True):
    """An object that is ready to be put, with its entry and the local layout that it belongs to."""

    entry: ChainEntry
    content: bytes | Path
    layout: Layout


def commit_locally(checkout: Checkout) -> Layout:
    """Run SQLite's COMMIT, and return the layout after it, still with the old checksum.

    Raises: Corrupt, Unavailable.
    """
    checkout.before_commit()
    with local_disk():
        if checkout.connection.in_transaction:
            checkout.connection.execute("COMMIT")
    checkout.check_base()
    return follow_log(log_path(checkout.path), checkout.layout, checkout.committed_frames)


def follow_log(log: Path, before: Layout, end: int) -> Layout:
    """The layout that includes the log's frames up to `end`, still with the checksum of `before`.

    Raises: Corrupt.
    """
    # SQLite has written nothing.
    if end == (0 if before.log is None else before.log.frames):
        return before
    in_log = dict(before.in_log)
    descriptor = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
    try:
        state = before.log or read_header(descriptor)
        if state.page_size != before.page_size:
            raise Corrupt("wal", before.page_size, state.page_size)
        # Frame headers are read, the pages are not: only their offsets are needed.
        first, step = state.page_offset(state.frames), state.frame_bytes
        pages, commits, state = read_frame_headers(descriptor, state, end)
        # A later frame of a page replaces an earlier one: the dict keeps the last offset.
        in_log.update(zip(pages, range(first, first + step * len(pages), step), strict=True))
        page_count, smallest = commits[-1], min((before.base_pages, *filter(None, commits)))
    finally:
        os.close(descriptor)
    if page_count == 0:
        raise Corrupt("wal", "a commit frame at the end", "none")
    for number in [number for number in in_log if number > page_count]:
        del in_log[number]
    # If one commit shrank the database and a later one grew it again, the pages that were cut off must not be
    # read from the base: `smallest` is the smallest size in between.
    before = msgspec.structs.replace(before, base_pages=smallest)
    return apply_deltas(before, in_log, page_count, before.checksum, state)


def touched_pages(before: Layout, after: Layout) -> list[int]:
    """Pages that may differ between two layouts of one copy, ascending, including all added ones."""
    old, skipped = before.in_log, lock_page(after.page_size)
    # A page has changed if its newest version is at another place in the log.
    touched = {number for number, at in after.in_log.items() if old.get(number) != at}
    touched.update(range(before.page_count + 1, after.page_count + 1))
    touched.discard(skipped)
    return sorted(touched)


class CommitMaker:
    """Makes the object of a commit. All methods block."""

    def __init__(self, limits: Limits, new_path: Callable[[str], Path]) -> None:
        self._limits, self._new_path = limits, new_path
        self._quick_packer = page_packer(limits.quick_compression_level)
        self._packer = page_packer(limits.compression_level)

    def settle(self, checkout: Checkout) -> LocalChange:
        """Commit locally, and find the pages that changed; the time depends on their number."""
        after = commit_locally(checkout)
        checkout.trim(self._limits.idle_page_cache_bytes)
        touched = touched_pages(checkout.layout, after)
        since, earlier = self._find_earlier(checkout, after, touched)
        return LocalChange(after, touched, since, earlier)

    def _find_earlier(
        self, checkout: Checkout, after: Layout, touched: list[int]
    ) -> tuple[Mark | None, frozenset[int]]:
        """The oldest mark from which a cumulative delta can start, and the pages changed since then.

        Limited by `cumulative_pages`; successive syncs change mostly the same pages, so few are added.
        """
        limit = self._limits.cumulative_pages
        found: tuple[Mark | None, frozenset[int]] = (None, frozenset())
        before = checkout.layout
        # No earlier version is in the log, or the delta is large already.
        if before.log is None or len(touched) > limit:
            return found
        # From the newest mark to the oldest, as long as the union of all changed pages is small enough. Pages
        # changed since a mark are those whose newest frame is behind the length that the log had then.
        for mark in reversed(checkout.marks):
            # The database has shrunk since then, or the log is another one: this mark cannot be used.
            if mark.page_count > before.page_count or mark.frames > before.log.frames:
                break
            start = before.log.page_offset(mark.frames)
            earlier = {number for number, at in before.in_log.items() if at >= start}
            earlier.update(range(mark.page_count + 1, before.page_count + 1))
            earlier.discard(lock_page(after.page_size))
            # Pages that this commit cuts off need not be in the delta.
            earlier = {number for number in earlier if number <= after.page_count}
            if len(earlier.union(touched)) > limit:
                break
            found = (mark, frozenset(earlier))
        return found

    def is_whole(self, head: Head, change: LocalChange) -> bool:
        """Whether to store a snapshot: most pages have changed, or the chain has its most deltas already."""
        deltas = len(head.chain) - 1
        return 2 * len(change.touched) > change.layout.page_count or deltas >= self._limits.chain_deltas

    def make(
        self, checkout: Checkout, head: Head, commit: Commit, nonce: str, change: LocalChange
    ) -> StoredObject:
        """Make the object of a commit: a delta or a snapshot, by `is_whole`."""
        after, touched = change.layout, change.touched
        entry = _next_entry(head, commit, nonce, after)
        if self.is_whole(head, change):
            return self._whole(checkout, after, touched, entry)
        return self._delta(checkout, change, entry)

    def make_whole(
        self, checkout: Checkout, head: Head, commit: Commit, nonce: str, change: LocalChange
    ) -> StoredObject:
        """Make a snapshot; the checkout may be at any version."""
        entry = _next_entry(head, commit, nonce, change.layout)
        return self._whole(checkout, change.layout, change.touched, entry)

    def _whole(
        self, checkout: Checkout, after: Layout, touched: list[int], entry: ChainEntry
    ) -> StoredObject:
        with (
            local_disk(),
            checkout.image() as old,
            Image(checkout.path, log_path(checkout.path), after) as new,
        ):
            # The checksum is carried along as for a delta, and compared with that of the pages written: so
            # pages of the base that did not change are verified before they become a snapshot.
            expected = checkout.layout.checksum ^ cut_checksum(old, after.page_count)
            hashes: dict[int, int] = {}
            for number in touched:
                expected ^= _page_change(number, old, new, hashes)
            made = self._snapshot(new, entry, self._quick_packer)
        if made.entry.checksum != expected:
            raise Corrupt(checkout.path.name, f"{expected:016x}", f"{made.entry.checksum:016x}")
        return msgspec.structs.replace(made, layout=hashed(made.layout, checkout.layout, hashes))

    def _delta(self, checkout: Checkout, change: LocalChange, entry: ChainEntry) -> StoredObject:
        before, after = checkout.layout, change.layout
        pages, parent = change.touched, before.checksum
        if change.since is not None:
            # Cumulative: more pages, and an earlier first version.
            pages, parent = sorted(change.earlier.union(pages)), change.since.checksum
            entry = msgspec.structs.replace(entry, first=change.since.version + 1)
        with (
            local_disk(),
            checkout.image() as old,
            Image(checkout.path, log_path(checkout.path), after) as new,
            _Sink(len(pages) * after.page_size, self._limits, self._new_path) as sink,
        ):
            writer = PageWriter(header_of(entry, parent), sink.write, self._quick_packer)
            # The new checksum follows from the old one and the pages that differ: see
            # `storage.database.local.layers`.
            total = before.checksum ^ cut_checksum(old, after.page_count)
            hashes: dict[int, int] = {}
            for numbers in _batches(pages, pages_per_block(after.page_size)):
                total ^= _add_changed(writer, numbers, change.earlier, old, new, hashes)
            digest = writer.finish(total)
            entry = with_digests(entry, writer.size_bytes, digest, total)
            after = hashed(msgspec.structs.replace(after, checksum=total), before, hashes)
            return StoredObject(entry, sink.content(), after)

    def snapshot(self, image: Image, entry: ChainEntry) -> StoredObject:
        """Make a snapshot of version `entry.last`; its checksum is computed from all pages."""
        return self._snapshot(image, entry, self._packer)

    def _snapshot(self, image: Image, entry: ChainEntry, packer: Packer) -> StoredObject:
        size = image.layout.page_size
        entry = msgspec.structs.replace(entry, kind=EntryKind.SNAPSHOT, first=entry.last)
        total = 0
        with local_disk(), _Sink(None, self._limits, self._new_path) as sink:
            writer = PageWriter(header_of(entry, 0), sink.write, packer)
            for numbers in whole_blocks(image.layout):
                pages = image.pages(numbers)
                total ^= pages_checksum(numbers, pages, size)
                writer.add(numbers, pages)
            digest = writer.finish(total)
            entry = with_digests(entry, writer.size_bytes, digest, total)
            return StoredObject(entry, sink.content(), msgspec.structs.replace(image.layout, checksum=total))

    def adopt(self, path: Path, entry: ChainEntry) -> StoredObject:
        """Make a snapshot of version `entry.last` from a file. Raises: InvalidDatabase."""
        with local_disk():
            layout = read_file_layout(path)
            entry = msgspec.structs.replace(entry, page_size=layout.page_size, page_count=layout.page_count)
            with Image(path, log_path(path), layout) as image:
                return self._snapshot(image, entry, self._quick_packer)

    def merged_delta(self, image: Image, numbers: list[int], entry: ChainEntry, parent: int) -> StoredObject:
        """Make a delta of these pages, with the contents that they have in the image."""
        raw_bytes = len(numbers) * image.layout.page_size
        with local_disk(), _Sink(raw_bytes, self._limits, self._new_path) as sink:
            writer = PageWriter(header_of(entry, parent), sink.write, self._packer)
            for batch in _batches(numbers, pages_per_block(image.layout.page_size)):
                writer.add(batch, image.pages(batch))
            digest = writer.finish(entry.checksum)
            made = with_digests(entry, writer.size_bytes, digest, entry.checksum)
            return StoredObject(made, sink.content(), image.layout)


def _next_entry(head: Head, commit: Commit, nonce: str, after: Layout) -> ChainEntry:
    """The entry of the head's next version, as a delta; size, SHA-256 and checksum are filled in later."""
    return ChainEntry(
        EntryKind.DELTA, head.version + 1, head.version + 1, head.token, nonce, 0, b"",
        after.page_size, after.page_count, 0, (commit.commit_id,), commit.now_ms,
        commit.counts,
    )  # fmt: skip


def header_of(entry: ChainEntry, parent: int) -> PageHeader:
    """The header of an entry's object."""
    return PageHeader(
        entry.kind, entry.page_size, entry.page_count, entry.first, entry.last,
        entry.token, parent, entry.time_ms, entry.commit_ids,
    )  # fmt: skip


def with_digests(entry: ChainEntry, size_bytes: int, sha256: bytes, checksum: int) -> ChainEntry:
    """The entry with what is known only after its object was written."""
    return msgspec.structs.replace(entry, size_bytes=size_bytes, sha256=sha256, checksum=checksum)


def _add_changed(  # noqa: PLR0913, PLR0917 - a step of `_delta`
    writer: PageWriter,
    numbers: list[int],
    always: frozenset[int],
    old: Image,
    new: Image,
    hashes: dict[int, int],
) -> int:
    """Write the pages that differ, and those of `always`, as one block.

    Returns what must be XORed to the database checksum: the hashes of old and new pages that were written (a
    page that did not change cancels itself out). `hashes` gets the new hash of each page of `numbers`.
    """
    size = new.layout.page_size
    before = [number for number in numbers if number <= old.layout.page_count]
    # Compare all pages of the batch at once; `before` are those that existed already.
    was = np.frombuffer(old.pages(before), np.uint8).reshape(-1, size)
    now = np.frombuffer(new.pages(numbers), np.uint8).reshape(-1, size)
    hashes.update(zip(numbers, page_hashes(numbers, now.reshape(-1).data, size), strict=True))
    # New pages always count as different.
    differs = np.ones(len(numbers), np.bool_)
    differs[: len(before)] = (was != now[: len(before)]).any(axis=1)
    if always:
        differs |= np.isin(numbers, list(always))
    if numbers[:1] == [1] and old.layout.page_count != new.layout.page_count:
        # A delta that only changes the database's size needs a page, as a frame carries the size: page 1.
        differs[0] = True
    if not differs.all():
        was, now = was[differs[: len(before)]], now[differs]
        before, numbers = _chosen(before, differs), _chosen(numbers, differs)
    if numbers:
        writer.add(numbers, now.reshape(-1).data)
    total = pages_checksum(before, was.reshape(-1).data, size)
    for number in numbers:
        total ^= hashes[number]
    return total


def _chosen(numbers: list[int], chosen: npt.NDArray[np.bool_]) -> list[int]:
    return list(itertools.compress(numbers, chosen.tolist()))


def _page_change(number: int, old: Image, new: Image, hashes: dict[int, int]) -> int:
    size = new.layout.page_size
    change = pages_checksum([number], new.page(number), size)
    hashes[number] = change
    if number <= old.layout.page_count:
        change ^= pages_checksum([number], old.page(number), size)
    return change


def _batches(numbers: Sequence[int], count: int) -> Iterator[list[int]]:
    for at in range(0, len(numbers), count):
        yield list(numbers[at : at + count])


class _Sink:
    """Where an object is written: memory if it is known to be small, else a file."""

    def __init__(self, raw_bytes: int | None, limits: Limits, new_path: Callable[[str], Path]) -> None:
        small = raw_bytes is not None and raw_bytes <= limits.delta_memory_bytes
        self._path = None if small else new_path(".obj")
        self._file: BinaryIO = io.BytesIO() if self._path is None else self._path.open("xb")
        self.write = self._file.write
        self._done = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self._file.close()
            if not self._done:
                # The object was not finished.
                self._path.unlink(missing_ok=True)

    def content(self) -> bytes | Path:
        """What was written; the caller removes the file."""
        self._done = True
        if isinstance(self._file, io.BytesIO):
            return self._file.getvalue()
        self._file.flush()
        assert self._path is not None
        return self._path
