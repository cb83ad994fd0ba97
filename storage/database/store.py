"""Versioned databases: checks out a version, commits the next one, and maintains chain and history.

The facade of this package for `app` and `storage.media`. If several callers change the same database at the
same time, the conditions on the writes of its head record decide: one succeeds, the others get an error.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import apsw

from storage.database.assemble import Assembler, Target
from storage.database.commit import Commit, CommitMaker, LocalChange, StoredObject
from storage.database.copies import SharedCopies
from storage.database.format.keys import entry_key
from storage.database.history import History, RestorePoint
from storage.database.limits import Limits
from storage.database.local.cache import BaseCache, WorkFolder
from storage.database.local.checkout import Checkout
from storage.database.local.image import Image
from storage.database.maintenance.compact import Compactor, plan
from storage.database.maintenance.doctor import Diagnosis, Doctor
from storage.database.maintenance.sweep import Sweeper, Swept
from storage.database.rebuild import Inventory, take_inventory
from storage.database.sessions import SessionLog
from storage.errors import Conflict, Corrupt, HeadMoved, NotFound, SessionLost, Unavailable
from storage.heads.base import HeadStore, HeadUpdate, SessionUpdate
from storage.heads.transitions import was_applied
from storage.objects.base import Objects, ObjectStat, ObjectStore
from storage.objects.now import read_clock
from storage.types import (
    EMPTY_HEAD,
    ChainEntry,
    DatabaseId,
    EntryKind,
    Head,
    Offload,
    Prepared,
)

__all__ = ["Checkout", "Commit", "DatabaseStore", "Limits"]

log = logging.getLogger(__name__)

_SHORT_BYTES = 256 << 10
"""Pages up to this size in total are read, hashed and compressed in less than a millisecond."""

_PLANS = 3
"""How often a checkout reads the head again because compaction and sweep have removed an object."""


_Make = Callable[[Checkout, Head, Commit, str, LocalChange], StoredObject]


def _count_nothing(_event: str) -> None:
    """For processes without metrics."""


def _ignore(_database: DatabaseId) -> None:
    """The `due` of processes that do not compact."""


class DatabaseStore:
    """Versioned databases. One per process, for any number of greenlets.

    All methods raise `Unavailable` if a backend or the local disk is not available, and `Corrupt` if stored
    bytes are not what was written.
    """

    def __init__(  # noqa: PLR0913  # all collaborators are given
        self,
        heads: HeadStore,
        objects: ObjectStore,
        folder: Path,
        *,
        offload: Offload[Any],
        clock_ms: Callable[[], int],
        nonce: Callable[[], str],
        configure: Callable[[apsw.Connection], None],
        limits: Limits,
        due: Callable[[DatabaseId], None] = _ignore,
        put: Callable[[str, bytes], None] | None = None,
        count: Callable[[str], None] = _count_nothing,
    ) -> None:
        """`folder` is local, may be shared by processes, and holds nothing that must be kept.

        `configure` registers collations and functions on every new connection. `due` is told of a
        database whose chain a commit has made long enough to be compacted. `put` puts the object of
        a small commit, where `objects.put` is not the best way (see `sharedput`). `count` is told, from
        any thread, where each working copy came from (`from copy`, `from base`, `from store`), and of each
        file that was evicted (`evicted base`, `evicted copy`).
        """
        apsw.soft_heap_limit(limits.page_caches_bytes)
        self._due = due
        self._put_small = put or objects.put
        self._heads, self._objects, self._limits = heads, objects, limits
        self._offload, self._clock_ms, self._nonce = offload, clock_ms, nonce
        self._bases = BaseCache(folder / "bases", limits.base_bytes, limits.verify_every, count)
        self._work = WorkFolder(folder / "work", nonce())
        self._assembler = Assembler(objects, self._bases, self._work, limits, configure, offload, count)
        self._commits = CommitMaker(limits, self._work.new_path)
        self._copies = SharedCopies(
            folder / "copies", self._assembler, limits, offload=offload, nonce=nonce, count=count
        )
        self.sessions = SessionLog(heads, objects, limits, nonce)
        self._history = History(objects, limits.history_ms, clock_ms)
        self._compactor = Compactor(
            heads, objects, self._history, self._commits, offload=offload, nonce=nonce
        )
        self._sweeper = Sweeper(heads, objects, self._history, limits)
        self._doctor = Doctor(objects, self._history, self._rebuild, offload, clock_ms, heads.find)

    def close(self) -> None:
        """Close all working copies and remove the process's folder."""
        self._copies.close()
        self._work.close()

    def cache_bytes(self) -> dict[str, int]:
        """The disk that the caches of this host take, by kind."""
        found: dict[str, int] = self._offload(
            lambda: {"bases": self._bases.total_bytes(), "copies": self._copies.total_bytes()}
        )
        return found

    def new_path(self, suffix: str) -> Path:
        """A new path for a temporary file on the disk of the working copies, removed with the process."""
        return self._work.new_path(suffix)

    def head(self, database: DatabaseId) -> Head:
        """The current head; EMPTY_HEAD for a database that was never written."""
        return self.sessions.head(database)

    def checkout(self, database: DatabaseId, head: Head) -> Checkout:
        """A working copy at `head.version` (at least 1), for the caller alone until released or discarded.

        Raises: HeadMoved if newer versions have replaced this one and its objects are deleted.
        """
        return self._assemble(
            database, head, lambda target: self._copies.take(target) or self._assembler.checkout(target)
        )

    def _assemble(self, database: DatabaseId, head: Head, assemble: Callable[[Target], Checkout]) -> Checkout:
        for _ in range(_PLANS):
            try:
                return assemble(Target(database, head.version, head.checksum, head.chain))
            except NotFound:
                # An object of the chain is missing: compaction may have replaced it, and a sweep deleted it.
                moved, head = head, self._heads.find(database) or EMPTY_HEAD
                if moved.version != head.version:
                    raise HeadMoved(f"{database} is at version {head.version}") from None
                # The chain is still the same, so the object is really lost.
                if moved.chain == head.chain:
                    raise
        raise Unavailable(f"the chain of {database} does not stand still")

    def release(self, checkout: Checkout) -> None:
        """Give a checkout back; an open transaction is rolled back.

        Does not raise for a fault of local files: the copy is dropped, and all that was committed is stored.
        """
        if not self._copies.holds(checkout):
            self._offload(checkout.remove)
            return
        try:
            self._copies.release(checkout)
        except Corrupt:
            self._assembler.forget(checkout.database)
        except (Unavailable, OSError) as exc:
            log.warning("the working copy of %s was dropped: %s", checkout.database, exc)

    def discard(self, checkout: Checkout) -> None:
        """Drop a checkout with all changes in it."""
        if self._copies.holds(checkout):
            self._copies.discard(checkout)
        else:
            self._offload(checkout.remove)

    @contextlib.contextmanager
    def discarding(self, checkout: Checkout) -> Iterator[None]:
        """Within the block, any error discards the checkout."""
        try:
            yield
        except BaseException:
            self.discard(checkout)
            raise

    def distrust(self, checkout: Checkout) -> None:
        """Drop a checkout that SQLite reports as malformed, and all cached bases of its database."""
        self.discard(checkout)
        self._assembler.forget(checkout.database)

    def commit(
        self,
        checkout: Checkout,
        head: Head,
        commit: Commit,
        *,
        extra_objects: Objects = (),
        executor: Offload[Any] | None = None,
    ) -> Head:
        """Make the checkout's state the next version; the checkout is then at that version.

        `head` is the one that the checkout was made for, with the token of the caller's session.
        `extra_objects` are small objects to which the new version refers: they are put together with its own
        object, before the head is changed. `executor` runs SQLite's COMMIT and the making of a small delta:
        off the event loop, unless the caller knows that the change is small. On any error the checkout is
        discarded. Raises: SessionLost, HeadMoved.
        """
        return self._commit(
            checkout, head, commit, self._commits.make, extra_objects, executor or self._offload
        )

    def restore(self, checkout: Checkout, head: Head, commit: Commit) -> Head:
        """Make the state of a checkout, which may be of any version, the next version, as a snapshot.

        `head` is the current one; its version goes to the history. On any error the checkout is discarded.
        Raises: HeadMoved.
        """
        return self._commit(checkout, head, commit, self._commits.make_whole, (), self._offload)

    def prepare(
        self, checkout: Checkout, head: Head, commit: Commit, checked: bytes, *, executor: Offload[Any]
    ) -> Head:
        """Store the checkout's state as a prepared commit, which `finish` makes the next version.

        `head.session` is the session that was merged into the checkout, with the `seq` up to which it was.
        `checked` is the digest of the sanity check's request. The checkout is then at the prepared
        version. On any error it is discarded. Raises: SessionLost, SessionAhead.
        """
        session = head.session
        if session is None:
            raise SessionLost("no session runs")

        def record(made: StoredObject) -> Head:
            prepared = Prepared(
                made.entry, commit.commit_id, commit.answer, commit.now_ms, commit.stamps, checked
            )
            return self.sessions.update(checkout.database, session, SessionUpdate(prepared=prepared))

        prepared = self._store(checkout, head, commit, self._commits.make, (), executor, record)
        if prepared.session is not None and prepared.session.prepared is not None:
            self._note_due(checkout.database, (*prepared.chain, prepared.session.prepared.entry))
        return prepared

    def finish(self, database: DatabaseId, head: Head) -> Head:
        """Make the prepared commit of `head.session` the next version. Raises: SessionLost, HeadMoved."""
        session = head.session
        if session is None or session.prepared is None:
            raise SessionLost("the session has nothing to commit")
        ready = session.prepared
        commit = Commit(ready.commit_id, ready.answer, ready.time_ms, ready.stamps, (session.id, session.seq))
        return self._head_update(database, head, commit, ready.entry)

    def _commit(  # noqa: PLR0913, PLR0917 - what its two callers fix
        self,
        checkout: Checkout,
        head: Head,
        commit: Commit,
        make: _Make,
        extra_objects: Objects,
        executor: Offload[Any],
    ) -> Head:
        return self._store(
            checkout, head, commit, make, extra_objects, executor,
            lambda made: self._head_update(checkout.database, head, commit, made.entry),
        )  # fmt: skip

    def _store(  # noqa: PLR0913, PLR0917 - what its two callers fix
        self,
        checkout: Checkout,
        head: Head,
        commit: Commit,
        make: _Make,
        extra_objects: Objects,
        executor: Offload[Any],
        record: Callable[[StoredObject], Head],
    ) -> Head:
        """Commit locally, put the object, then write the head with `record`."""
        try:
            change = executor(lambda: self._commits.settle(checkout))
            # Too much work for the event loop.
            if change.touched_bytes > _SHORT_BYTES or self._commits.is_whole(head, change):
                executor = self._offload
            made = executor(lambda: make(checkout, head, commit, self._nonce(), change))
            if made.entry.kind == EntryKind.SNAPSHOT:
                self._history.record(checkout.database, head, self._nonce())
            # The object must be durable before the head refers to it.
            self._put(checkout.database, made, extra_objects)
            recorded = record(made)
        except BaseException as exc:
            self.discard(checkout)
            # The cached base may be damaged.
            if isinstance(exc, Corrupt):
                self._assembler.forget(checkout.database)
            raise
        if self._copies.holds(checkout):
            self._copies.advance(checkout, made.entry.last, made.layout)
        else:
            checkout.advance(made.entry.last, made.layout)
        return recorded

    def replace(
        self, database: DatabaseId, head: Head, path: Path, commit: Commit, *, extra_objects: Objects = ()
    ) -> Head:
        """Make a whole file the next version, as a snapshot; the file is moved to the cache on success.

        Its contents must have been checked by the caller. `extra_objects` is as for `commit`.
        Raises: InvalidDatabase, SessionLost, HeadMoved.
        """
        entry = ChainEntry(
            EntryKind.SNAPSHOT, head.version + 1, head.version + 1, head.token, self._nonce(), 0, b"",
            0, 0, 0, (commit.commit_id,), commit.now_ms, commit.counts,
        )  # fmt: skip
        made = self._offload(lambda: self._commits.adopt(path, entry))
        # A snapshot drops the whole chain.
        self._history.record(database, head, self._nonce())
        self._put(database, made, extra_objects)
        updated = self._head_update(database, head, commit, made.entry)
        try:
            self._offload(lambda: self._bases.adopt(database, made.entry.last, made.entry.checksum, path))
        except OSError as exc:
            log.warning("the file of %s is not kept in the cache: %s", database, exc)
        return updated

    def compact(self, database: DatabaseId) -> bool:
        """Shorten the chain if that is due; returns whether it was done.

        It is not done if a commit or the start of a sync happens meanwhile. It reads a working copy, but does
        not keep other requests from using it.
        """
        head = self.head(database)
        start = plan(head.chain, self._limits)
        if start is None:
            return False
        try:
            return self._fold(database, head, start)
        except NotFound:
            return False  # compacted and swept by another process
        except Corrupt:
            # The fault may be in this host's copy: try again from stored objects alone.
            self._assembler.forget(database)
            with self._apart(self._rebuild(database, head)) as image:
                return self._compactor.fold(database, head, start, image, self._putting(database))

    def _fold(self, database: DatabaseId, head: Head, start: int) -> bool:
        copy = self.checkout(database, head)
        if not self._copies.holds(copy):
            with self._apart(copy) as image:
                return self._compactor.fold(database, head, start, image, self._putting(database))
        # Committed frames of a copy are never moved: its pages can be read while other requests use it.
        with copy.image() as image:
            self.release(copy)
            return self._compactor.fold(database, head, start, image, self._putting(database))

    @contextlib.contextmanager
    def _apart(self, copy: Checkout) -> Iterator[Image]:
        """The pages of a private copy, which is discarded at the end of the block."""
        try:
            with copy.image() as image:
                yield image
        finally:
            self.discard(copy)

    def _putting(self, database: DatabaseId) -> Callable[[StoredObject], None]:
        return functools.partial(self._put, database)

    def sweep(
        self,
        database: DatabaseId,
        now_ms: int | None = None,
        *,
        accept_loss: bool = False,
        most_bytes: int | None = None,
    ) -> Swept:
        """Delete the objects that no version of the last `history_ms` needs.

        If all objects together take more than `most_bytes`, the history is thinned. `now_ms` is the time by
        the store's clock, asked for if it is not given. Raises: DeletionUnsafe where that clock, or the head
        record (unless its loss is accepted), is not to be trusted.
        """
        if now_ms is None:
            now_ms = read_clock(self._objects, self._clock_ms)
        return self._sweeper.sweep(database, now_ms, accept_loss=accept_loss, most_bytes=most_bytes)

    def erase(self, database: DatabaseId) -> None:
        """Delete a database with its whole history, and what this host has cached of it."""
        self._copies.forget(database)
        self._assembler.forget(database)
        self._sweeper.erase(database)

    def history(self, database: DatabaseId, head: Head | None = None) -> list[RestorePoint]:
        """Every version that can be restored, oldest first, the current one last.

        `head` is the current one, read if not given; with EMPTY_HEAD only the history objects count.
        """
        return self._history.list_restore_points(database, head or self.head(database))

    def checkout_restore_point(self, database: DatabaseId, point: RestorePoint) -> Checkout:
        """A working copy of a version of the history, for `restore` or `export`.

        Raises: NotFound if its objects have been deleted meanwhile.
        """
        target = Target(database, point.version, point.chain[-1].checksum, point.chain)
        return self._assembler.checkout(target)

    def take_inventory(self, database: DatabaseId, stats: Iterable[ObjectStat]) -> Inventory:
        """What the listed objects of a database tell about its versions, without its head record."""
        return take_inventory(self._objects, self._history, database, stats)

    def rebuild(self, database: DatabaseId, chain: tuple[ChainEntry, ...]) -> Checkout:
        """A working copy of what a chain leads to, from stored objects alone. Raises: NotFound, Corrupt."""
        return self._assembler.rebuild(Target(database, chain[-1].last, chain[-1].checksum, chain))

    def export(self, database: DatabaseId, point: RestorePoint, path: Path) -> None:
        """Write a version as a file to a new path. Raises: NotFound if its objects have been deleted."""
        checkout = self.checkout_restore_point(database, point)
        try:
            self._offload(lambda: self._assembler.write_file(checkout, path))
        finally:
            self.discard(checkout)

    def doctor(self, database: DatabaseId) -> Diagnosis:
        """Examine every stored object of the current version, and rebuild it from them: see `Doctor`."""
        return self._doctor.examine(database, self.head(database))

    def _rebuild(self, database: DatabaseId, head: Head) -> Checkout:
        return self._assemble(database, head, self._assembler.rebuild)

    def _put(self, database: DatabaseId, made: StoredObject, extra_objects: Objects = ()) -> None:
        key = entry_key(database, made.entry)
        if isinstance(made.content, bytes):
            if extra_objects:
                self._objects.put_many([*extra_objects, (key, made.content)])
            else:
                self._put_small(key, made.content)
            return
        try:
            if extra_objects:
                self._objects.put_many(extra_objects)
            self._objects.put_file(key, made.content)
        finally:
            made.content.unlink(missing_ok=True)

    def _head_update(self, database: DatabaseId, head: Head, commit: Commit, entry: ChainEntry) -> Head:
        session_id, seq = commit.session or (None, 0)
        update = HeadUpdate(
            token=head.token, base_version=head.version, session_id=session_id, seq=seq,
            commit_id=commit.commit_id, answer=commit.answer, time_ms=commit.now_ms,
            stamps=commit.stamps, entry=entry,
        )  # fmt: skip
        try:
            updated = self._heads.advance_head(database, update)
        except (Conflict, Unavailable):
            # The update may be done and only its answer lost: read the record. `NotDurable` is not caught:
            # the record would show the update, but a power cut may undo it.
            found = self._heads.find(database)
            if found is not None and was_applied(found, update):
                return found
            raise
        if commit.session is None:
            self._note_due(database, updated.chain)
        return updated

    def _note_due(self, database: DatabaseId, chain: tuple[ChainEntry, ...]) -> None:
        """Call `due` if a chain needs compaction.

        After a sync this is done by the worker that merged, as its host has the copy that compaction reads.
        """
        if plan(chain, self._limits) is not None:
            self._due(database)
