"""Makes the local files of a version: a base, cached or fetched as a snapshot, and a log with later deltas.

Used by `store` and `copies`. The result must have the head's checksum; if a cached base leads to another
one, all cached bases of the database are dropped, and the snapshot is fetched.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec

from storage.database.format import keys
from storage.database.format.pages import Bytes, PageBlock, PageParser
from storage.database.history import find_start
from storage.database.limits import Limits
from storage.database.local.cache import Base, BaseCache, WorkFolder
from storage.database.local.checkout import Checkout, local_disk, log_path, open_checkout, remove_copy
from storage.database.local.image import Layout
from storage.database.local.layers import BaseWriter, DeltaWriter
from storage.errors import Corrupt, NotFound, Unavailable
from storage.objects.base import ObjectStore
from storage.types import ChainEntry, DatabaseId, Offload, T

_TRIES = 3
"""How often a transfer is attempted if it breaks off."""


class Target(msgspec.Struct, frozen=True):
    """The version to assemble, as the head or the history describes it."""

    database: DatabaseId
    version: int
    checksum: int
    chain: tuple[ChainEntry, ...]


class Draft(msgspec.Struct, frozen=True):
    """The files of a copy that no connection has open."""

    path: Path
    version: int
    layout: Layout


class Assembler:
    """Makes checkouts. Calls to the object store run in the caller's greenlet; all else is offloaded."""

    def __init__(  # noqa: PLR0913, PLR0917  # one constructor call, in the facade
        self,
        objects: ObjectStore,
        bases: BaseCache,
        work: WorkFolder,
        limits: Limits,
        configure: Callable[[apsw.Connection], None],
        offload: Offload[Any],
        count: Callable[[str], None] = lambda _event: None,
    ) -> None:
        self._count = count
        self._objects, self._bases, self._work, self._limits = objects, bases, work, limits
        self._configure, self._offload = configure, offload

    def checkout(self, target: Target) -> Checkout:
        """A private working copy of the target. Raises: NotFound, Corrupt, Unavailable."""
        return self._opened(target, self.draft(target))

    def rebuild(self, target: Target) -> Checkout:
        """As `checkout`, but from stored objects alone, without cached bases."""
        return self._opened(target, self._bring(target, self._fetch_base(target)))

    def draft(self, target: Target) -> Draft:
        """Files at the target's version. Raises: NotFound, Corrupt, Unavailable."""
        draft: Draft | None = self._offload(lambda: self._start_locally(target))
        if draft is not None:
            try:
                brought = self._bring(target, draft)
            except Corrupt:
                # The cached base, or what was made from it, is wrong: start again from stored objects.
                self.forget(target.database)
            else:
                self._count("from base")
                return brought
        self._count("from store")
        return self._bring(target, self._fetch_base(target))

    def _opened(self, target: Target, draft: Draft) -> Checkout:
        try:
            checkout: Checkout = self._offload(
                lambda: self.open(target.database, draft.version, draft.path, draft.layout)
            )
        except BaseException:
            remove_copy(draft.path)
            raise
        return checkout

    def open(
        self, database: DatabaseId, version: int, path: Path, layout: Layout, *, is_shared: bool = False
    ) -> Checkout:
        """A connection over files that are ready. Blocks. Raises: Corrupt, Unavailable."""
        return open_checkout(
            database, version, path, layout, page_cache_bytes=self._limits.page_cache_bytes,
            configure=self._configure, offload=self._offload, is_shared=is_shared,
        )  # fmt: skip

    def lay(self, database: DatabaseId, path: Path, layout: Layout, entries: Sequence[ChainEntry]) -> Layout:
        """Append deltas to the log of a copy that no transaction uses, and return the layout after them.

        Raises: NotFound, Corrupt, Unavailable.
        """
        for group in self._groups(entries):
            layout = self._apply(database, path, layout, group)
        return layout

    def publish_base(self, checkout: Checkout) -> None:
        """Write a new base from a copy whose log is long. Blocks. Raises: Corrupt, Unavailable."""
        path = self._work.new_path(".base")
        try:
            self.write_file(checkout, path)
            with local_disk():
                self._bases.publish(checkout.database, checkout.version, checkout.layout.checksum, path)
        finally:
            path.unlink(missing_ok=True)

    def write_file(self, checkout: Checkout, path: Path) -> None:
        """The committed state of a copy as a file. Blocks. Raises: Corrupt."""
        layout = checkout.layout
        with local_disk(), checkout.image() as image:
            writer = BaseWriter(path, layout.page_size, layout.page_count)
            try:
                writer.add_image(image)
            finally:
                writer.close()
        if writer.checksum != layout.checksum:
            raise Corrupt(checkout.path.name, f"{layout.checksum:016x}", f"{writer.checksum:016x}")

    def forget(self, database: DatabaseId) -> None:
        """Drop all cached bases of a database, because a result made from them was wrong."""
        self._offload(lambda: self._drop_bases(database))

    def _drop_bases(self, database: DatabaseId) -> None:
        for base in self._bases.list_bases(database):
            self._bases.drop(base)

    def _start_locally(self, target: Target) -> Draft | None:
        for base in self._bases.list_bases(target.database):
            # Newest first: the fewest deltas have to be applied.
            if can_start_from(target, base.version, base.checksum):
                draft = self._link(base)
                if draft is not None:
                    return draft
        return None

    def _link(self, base: Base) -> Draft | None:
        path = self._work.new_path(".db")
        try:
            with local_disk():
                layout = self._bases.link(base, path)
        except (FileNotFoundError, Corrupt):
            return None
        return Draft(path, base.version, layout)

    def _fetch_base(self, target: Target) -> Draft:
        """Fetch the snapshot as a new base, and link to it."""
        entry, path = target.chain[0], self._work.new_path(".base")
        try:
            # A broken transfer starts again with an empty file.
            _again_if_broken(lambda: self._write_base(target.database, entry, path))
            draft: Draft = self._offload(lambda: self._publish(target.database, entry, path))
        finally:
            path.unlink(missing_ok=True)
        return draft

    def _write_base(self, database: DatabaseId, entry: ChainEntry, path: Path) -> None:
        path.unlink(missing_ok=True)
        with local_disk():
            writer = self._offload(lambda: BaseWriter(path, entry.page_size, entry.page_count))
        try:
            self._stream(database, entry, writer.add)
        finally:
            writer.close()
        if writer.checksum != entry.checksum:
            raise Corrupt(keys.entry_key(database, entry), entry.checksum, writer.checksum)

    def _publish(self, database: DatabaseId, entry: ChainEntry, path: Path) -> Draft:
        into = self._work.new_path(".db")
        with local_disk():
            # Linked while it is published: another process could evict the base in between.
            base = self._bases.publish(database, entry.last, entry.checksum, path, into)
            return Draft(into, base.version, self._bases.open_linked(base, into))

    def _bring(self, target: Target, draft: Draft) -> Draft:
        """Apply the missing deltas to a draft; the draft is removed if that fails."""
        try:
            layout = self.lay(target.database, draft.path, draft.layout, missing(target, draft.version))
            _check_checksum(target, layout)
        except BaseException:
            remove_copy(draft.path)
            raise
        return Draft(draft.path, target.version, layout)

    def _groups(self, entries: Sequence[ChainEntry]) -> Iterator[list[ChainEntry]]:
        """Split entries into groups that fit into memory; one that does not fit is a group of its own."""
        group: list[ChainEntry] = []
        for entry in entries:
            # A group is never empty, even if its only entry is larger than the limit.
            if group and sum(e.size_bytes for e in group) + entry.size_bytes > self._limits.fetch_bytes:
                yield group
                group = []
            group.append(entry)
        if group:
            yield group

    def _apply(self, database: DatabaseId, path: Path, layout: Layout, group: list[ChainEntry]) -> Layout:
        # Too large for memory: stream it piece by piece into the log.
        if group[0].size_bytes > self._limits.fetch_bytes:
            return _again_if_broken(lambda: self._lay_streamed(database, path, layout, group[0]))
        contents = self._objects.read_many([keys.entry_key(database, entry) for entry in group])

        def lay_all() -> Layout:
            after = layout
            for entry, content in zip(group, contents, strict=True):
                key = keys.entry_key(database, entry)
                if content is None:
                    raise NotFound(key)
                after = _lay_content(path, after, entry, key, content)
            return after

        # The whole group is applied with one switch to a thread.
        laid: Layout = self._offload(lay_all)
        return laid

    def _lay_streamed(self, database: DatabaseId, path: Path, layout: Layout, entry: ChainEntry) -> Layout:
        with local_disk():
            layer = self._offload(lambda: DeltaWriter(path, log_path(path), layout, entry))
        try:
            self._stream(database, entry, layer.add)
            with local_disk():
                laid: Layout = self._offload(layer.finish)
                return laid
        finally:
            layer.close()

    def _stream(
        self, database: DatabaseId, entry: ChainEntry, add: Callable[[Sequence[int], Bytes], None]
    ) -> None:
        parser = PageParser(keys.entry_key(database, entry), entry)
        for piece in self._objects.stream(keys.entry_key(database, entry)):
            self._offload(functools.partial(_add_piece, parser, piece, add))
        parser.finish()


def _check_checksum(target: Target, layout: Layout) -> None:
    if layout.checksum != target.checksum:
        raise Corrupt(str(target.database), f"{target.checksum:016x}", f"{layout.checksum:016x}")


def can_start_from(target: Target, version: int, checksum: int) -> bool:
    """Whether the deltas of the target's chain can be applied to a local state.

    If the chain has an entry that ends at the state's version, its checksum must be the state's.
    """
    return find_start(target.chain) <= version <= target.version and all(
        entry.checksum == checksum for entry in target.chain if entry.last == version
    )


def missing(target: Target, version: int) -> list[ChainEntry]:
    """The fewest deltas that lead from a version to the target, in order. Raises: Corrupt.

    Deltas may overlap (cumulative ones repeat pages of earlier versions), so at each version the one that
    leads furthest is taken:

        chain    [s 5] [d 6] [d 6-7] [d 6-8] [d 9]      from version 5:  [d 6-8] [d 9]
    """
    found: list[ChainEntry] = []
    while version < target.version:
        # Deltas that can be applied to this version and lead beyond it.
        fitting = [entry for entry in target.chain[1:] if entry.first <= version + 1 <= entry.last]
        if not fitting:
            raise Corrupt("chain", f"a delta from {version + 1}", target.chain)
        found.append(max(fitting, key=lambda entry: entry.last))
        version = found[-1].last
    if version != target.version:
        raise Corrupt("chain", f"version {target.version}", version)
    return found


def _again_if_broken(transfer: Callable[[], T]) -> T:
    """Run a transfer; if it breaks off, run it again from its start."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(Unavailable):
            return transfer()
    return transfer()


def _add_piece(parser: PageParser, piece: bytes, add: Callable[[Sequence[int], Bytes], None]) -> None:
    _add_all(parser.feed(piece), add)


def _add_all(blocks: Iterator[PageBlock], add: Callable[[Sequence[int], Bytes], None]) -> None:
    with local_disk():
        for numbers, pages in blocks:
            add(numbers, pages)


def _lay_content(path: Path, layout: Layout, entry: ChainEntry, key: str, content: bytes) -> Layout:
    parser = PageParser(key, entry)
    with local_disk():
        layer = DeltaWriter(path, log_path(path), layout, entry)
    try:
        _add_all(parser.feed(content), layer.add)
        parser.finish()
        with local_disk():
            return layer.finish()
    finally:
        layer.close()
