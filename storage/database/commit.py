"""What a commit stores: the frames that SQLite wrote become one delta, or the whole file a snapshot.

The head record is changed by `storage.database.store`.
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
from storage.database.checkout import Checkout, Mark, local_disk, log_path
from storage.database.image import Image, Layout, whole_blocks
from storage.database.layers import cut_checksum, hashed, laid_over
from storage.database.limits import Limits
from storage.database.pages import (
    PageHeader,
    PageWriter,
    lock_page,
    page_hashes,
    page_packer,
    pages_checksum,
    pages_per_block,
)
from storage.database.wal import read_frame_headers, read_header
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
    """What a commit says beside its pages."""

    commit_id: str
    answer: bytes
    """Kept with the commit, so that a lost reply can be told from a failure."""
    now_ms: int
    stamps: dict[str, int | bool]
    session: tuple[str, int] | None
    """Session id and number of journal entries; None for a commit that ends any session."""

    @property
    def counts(self) -> tuple[int, ...]:
        """What the version's entry tells people of its content. Costs some bytes of the head each."""
        for names in _COUNTED:
            if names[0] in self.stamps:
                return tuple(int(self.stamps[name]) for name in names)
        return ()


class Change(msgspec.Struct, frozen=True):
    """What SQLite has committed since the checkout's layout."""

    layout: Layout
    touched: list[int]
    """Pages that may differ, ascending."""
    since: Mark | None = None
    """The earlier version from which a delta of `earlier` and `touched` leads on, if it is cumulative."""
    earlier: frozenset[int] = frozenset()
    """Pages that changed between that version and the checkout's."""

    @property
    def touched_bytes(self) -> int:
        """What the delta would hold before it is packed."""
        return len(self.touched) * self.layout.page_size


class Made(msgspec.Struct, frozen=True):
    """An object ready to be put."""

    entry: ChainEntry
    content: bytes | Path
    layout: Layout


def commit_locally(checkout: Checkout) -> Layout:
    """SQLite's COMMIT; the layout after it, its checksum still the old one. Raises: Corrupt, Unavailable."""
    checkout.before_commit()
    with local_disk():
        if checkout.connection.in_transaction:
            checkout.connection.execute("COMMIT")
    checkout.check_base()
    return follow_log(log_path(checkout.path), checkout.layout, checkout.committed_frames)


def follow_log(log: Path, before: Layout, end: int) -> Layout:
    """The layout with the log's frames up to `end`; its checksum is still that of `before`.

    Raises: Corrupt.
    """
    if end == (0 if before.log is None else before.log.frames):
        return before
    in_log = dict(before.in_log)
    descriptor = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
    try:
        state = before.log or read_header(descriptor)
        if state.page_size != before.page_size:
            raise Corrupt("wal", before.page_size, state.page_size)
        first, step = state.page_offset(state.frames), state.frame_bytes
        pages, commits, state = read_frame_headers(descriptor, state, end)
        in_log.update(zip(pages, range(first, first + step * len(pages), step), strict=True))
        page_count, smallest = commits[-1], min((before.base_pages, *filter(None, commits)))
    finally:
        os.close(descriptor)
    if page_count == 0:
        raise Corrupt("wal", "a commit frame at the end", "none")
    for number in [number for number in in_log if number > page_count]:
        del in_log[number]
    # Pages that a commit cut off do not come back from the base if a later commit grows the database.
    before = msgspec.structs.replace(before, base_pages=smallest)
    return laid_over(before, in_log, page_count, before.checksum, state)


def touched_pages(before: Layout, after: Layout) -> list[int]:
    """Pages that may differ between two layouts of one copy, ascending; all new ones, written or not."""
    old, skipped = before.in_log, lock_page(after.page_size)
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

    def settle(self, checkout: Checkout) -> Change:
        """Commit locally; takes as long as the change is."""
        after = commit_locally(checkout)
        checkout.trim(self._limits.idle_page_cache_bytes)
        touched = touched_pages(checkout.layout, after)
        since, earlier = self._find_earlier(checkout, after, touched)
        return Change(after, touched, since, earlier)

    def _find_earlier(
        self, checkout: Checkout, after: Layout, touched: list[int]
    ) -> tuple[Mark | None, frozenset[int]]:
        """How far back a cumulative delta may reach: its pages must stay few, as most change every time."""
        limit = self._limits.cumulative_pages
        found: tuple[Mark | None, frozenset[int]] = (None, frozenset())
        before = checkout.layout
        if before.log is None or len(touched) > limit:
            return found
        for mark in reversed(checkout.marks):
            if mark.page_count > before.page_count or mark.frames > before.log.frames:
                break
            start = before.log.page_offset(mark.frames)
            earlier = {number for number, at in before.in_log.items() if at >= start}
            earlier.update(range(mark.page_count + 1, before.page_count + 1))
            earlier.discard(lock_page(after.page_size))
            earlier = {number for number in earlier if number <= after.page_count}
            if len(earlier.union(touched)) > limit:
                break
            found = (mark, frozenset(earlier))
        return found

    def is_whole(self, head: Head, change: Change) -> bool:
        """Whether the commit is a snapshot, since that is better or due; takes as long as the file is."""
        deltas = len(head.chain) - 1
        return 2 * len(change.touched) > change.layout.page_count or deltas >= self._limits.chain_deltas

    def make(self, checkout: Checkout, head: Head, commit: Commit, nonce: str, change: Change) -> Made:
        """Make the delta, or the snapshot."""
        after, touched = change.layout, change.touched
        entry = _next_entry(head, commit, nonce, after)
        if self.is_whole(head, change):
            return self._whole(checkout, after, touched, entry)
        return self._delta(checkout, change, entry)

    def make_whole(self, checkout: Checkout, head: Head, commit: Commit, nonce: str, change: Change) -> Made:
        """Make a snapshot, whatever version the checkout was of."""
        entry = _next_entry(head, commit, nonce, change.layout)
        return self._whole(checkout, change.layout, change.touched, entry)

    def _whole(self, checkout: Checkout, after: Layout, touched: list[int], entry: ChainEntry) -> Made:
        with (
            local_disk(),
            checkout.image() as old,
            Image(checkout.path, log_path(checkout.path), after) as new,
        ):
            # Carried along as for a delta: it proves the pages of the base that the snapshot takes up.
            expected = checkout.layout.checksum ^ cut_checksum(old, after.page_count)
            hashes: dict[int, int] = {}
            for number in touched:
                expected ^= _page_change(number, old, new, hashes)
            made = self._snapshot(new, entry, self._quick_packer)
        if made.entry.checksum != expected:
            raise Corrupt(checkout.path.name, f"{expected:016x}", f"{made.entry.checksum:016x}")
        return msgspec.structs.replace(made, layout=hashed(made.layout, checkout.layout, hashes))

    def _delta(self, checkout: Checkout, change: Change, entry: ChainEntry) -> Made:
        before, after = checkout.layout, change.layout
        pages, parent = change.touched, before.checksum
        if change.since is not None:
            pages, parent = sorted(change.earlier.union(pages)), change.since.checksum
            entry = msgspec.structs.replace(entry, first=change.since.version + 1)
        with (
            local_disk(),
            checkout.image() as old,
            Image(checkout.path, log_path(checkout.path), after) as new,
            _Sink(len(pages) * after.page_size, self._limits, self._new_path) as sink,
        ):
            writer = PageWriter(header_of(entry, parent), sink.write, self._quick_packer)
            total = before.checksum ^ cut_checksum(old, after.page_count)
            hashes: dict[int, int] = {}
            for numbers in _batches(pages, pages_per_block(after.page_size)):
                total ^= _add_changed(writer, numbers, change.earlier, old, new, hashes)
            digest = writer.finish(total)
            entry = proven(entry, writer.size_bytes, digest, total)
            after = hashed(msgspec.structs.replace(after, checksum=total), before, hashes)
            return Made(entry, sink.content(), after)

    def snapshot(self, image: Image, entry: ChainEntry) -> Made:
        """The whole image as a snapshot of version `entry.last`; its checksum is computed anew."""
        return self._snapshot(image, entry, self._packer)

    def _snapshot(self, image: Image, entry: ChainEntry, packer: Packer) -> Made:
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
            entry = proven(entry, writer.size_bytes, digest, total)
            return Made(entry, sink.content(), msgspec.structs.replace(image.layout, checksum=total))

    def adopt(self, path: Path, entry: ChainEntry) -> Made:
        """A whole file as the snapshot of version `entry.last`. Raises: InvalidDatabase."""
        with local_disk():
            layout = read_file_layout(path)
            entry = msgspec.structs.replace(entry, page_size=layout.page_size, page_count=layout.page_count)
            with Image(path, log_path(path), layout) as image:
                return self._snapshot(image, entry, self._quick_packer)

    def merged(self, image: Image, numbers: list[int], entry: ChainEntry, parent: int) -> Made:
        """A delta of these pages as the image has them."""
        raw_bytes = len(numbers) * image.layout.page_size
        with local_disk(), _Sink(raw_bytes, self._limits, self._new_path) as sink:
            writer = PageWriter(header_of(entry, parent), sink.write, self._packer)
            for batch in _batches(numbers, pages_per_block(image.layout.page_size)):
                writer.add(batch, image.pages(batch))
            digest = writer.finish(entry.checksum)
            made = proven(entry, writer.size_bytes, digest, entry.checksum)
            return Made(made, sink.content(), image.layout)


def _next_entry(head: Head, commit: Commit, nonce: str, after: Layout) -> ChainEntry:
    """The entry of the version after the head's, as a delta; what its object is like is not known yet."""
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


def proven(entry: ChainEntry, size_bytes: int, sha256: bytes, checksum: int) -> ChainEntry:
    """The entry with what is known once its object is written."""
    return msgspec.structs.replace(entry, size_bytes=size_bytes, sha256=sha256, checksum=checksum)


def _add_changed(  # noqa: PLR0913, PLR0917 - a step of `_delta`
    writer: PageWriter,
    numbers: list[int],
    always: frozenset[int],
    old: Image,
    new: Image,
    hashes: dict[int, int],
) -> int:
    """Write those pages that differ, and those of `always`; the change of the database's checksum.

    A page that is the same in both images cancels itself out in the checksum. `hashes` takes the hash of each
    page of `numbers` as it is now.
    """
    size = new.layout.page_size
    before = [number for number in numbers if number <= old.layout.page_count]
    was = np.frombuffer(old.pages(before), np.uint8).reshape(-1, size)
    now = np.frombuffer(new.pages(numbers), np.uint8).reshape(-1, size)
    hashes.update(zip(numbers, page_hashes(numbers, now.reshape(-1).data, size), strict=True))
    differs = np.ones(len(numbers), np.bool_)
    differs[: len(before)] = (was != now[: len(before)]).any(axis=1)
    if always:
        differs |= np.isin(numbers, list(always))
    if numbers[:1] == [1] and old.layout.page_count != new.layout.page_count:
        # A delta that resizes the database keeps page 1: it takes a frame to commit a size.
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
    """Memory for an object known to be small, else a file."""

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
                self._path.unlink(missing_ok=True)

    def content(self) -> bytes | Path:
        """What was written; the file is the caller's from here on."""
        self._done = True
        if isinstance(self._file, io.BytesIO):
            return self._file.getvalue()
        self._file.flush()
        assert self._path is not None
        return self._path
