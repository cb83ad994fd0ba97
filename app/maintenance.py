"""Maintenance: compacts chains, and deletes objects and media contents to which nothing refers any more.

Called by `app.maintenance_loop` and by `ankisyncctl maintain`. It may run at the same time as requests and
other runs, and may be interrupted at any point. A run covers the databases that have changed since the
last run; a full run, once a week, covers all of them, and also deletes media contents.

Nothing is deleted if head records, objects or the clock may be wrong: see
`storage.database.maintenance.mark`, `lost` and `storage.objects.now`.
"""

from __future__ import annotations

import itertools
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from storage.database.maintenance.lost import list_lost, list_unlisted
from storage.database.maintenance.mark import STORE, HeadsMark, list_databases
from storage.database.maintenance.runs import Run, RunLog
from storage.database.orders import Orders, OrdersRecord, Quota
from storage.database.store import DatabaseStore, Limits
from storage.errors import Conflict, Corrupt, DeletionUnsafe, NotFound, StorageError, Unavailable
from storage.heads.base import HeadStore
from storage.media.sweep import Contents, names_since_s, read_contents, sweep_blobs
from storage.objects.base import ObjectStore
from storage.objects.now import read_clock
from storage.types import DatabaseId, DatabaseKind, Offload

FULL_EVERY_MS = 7 * 24 * 3_600_000
_LONGEST_GAP_MS = 20 * 24 * 3_600_000
"""If more than this has passed since the last run, the clock may have jumped: the run deletes nothing."""
_CLOCKS_MS = 24 * 3_600_000
"""More than the clocks of a server and of the object store can differ."""
_ACCEPT = "ankisyncctl maintain --accept-loss"
_LOOK_S = 1.0
_AT_ONCE = 200
"""After this number of databases the progress of a run is stored."""
_LEAST_SHARE = 0.5
"""If less than this share is left of the databases or contents of the last full run, nothing is deleted,
as head records or indexes may be lost."""

A = TypeVar("A")
B = TypeVar("B")
InParallel = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""Applies a function like `map`, possibly in parallel; results in order."""

log = logging.getLogger("ankisyncd.upkeep")


class Shard(msgspec.Struct, frozen=True):
    """One of `count` parts of all users, numbered from 1; each is maintained by itself."""

    number: int
    count: int

    def has(self, database: DatabaseId) -> bool:
        """Whether a database belongs to this part."""
        return zlib.crc32(database.user.encode()) % self.count == self.number - 1


EVERYTHING: Final = Shard(1, 1)


class Summary(msgspec.Struct):
    """The result of a run."""

    databases: int = 0
    compacted: int = 0
    deleted: int = 0
    deleted_bytes: int = 0
    failed: int = 0
    """Databases with an error, which is in the log."""
    refused: list[str] = []
    """Why nothing, or not everything, was deleted."""
    verified: int = 0
    """Users who were restored from their objects alone, and compared."""
    unsound: list[str] = []
    """Databases that a standing check found damaged, and how; also in earlier runs of the round."""


class _Outcome(NamedTuple):
    """The result for one database."""

    compacted: bool
    deleted: int
    deleted_bytes: int
    is_doubtful: bool
    """Its head may have been restored from an older copy."""
    error: StorageError | None


class Maintenance:
    """Goes through databases, and then through the media contents that they name.

    `check` is the standing check (`app.restorecheck`), called at the end of each run with the time by the
    store's clock. `locks`: those that the requests of this process take before they work on a media index.
    `in_parallel` goes through several databases at a time; the stores must then bear threads.
    """

    def __init__(  # noqa: PLR0913 - collaborators by name
        self,
        databases: DatabaseStore,
        heads: HeadStore,
        objects: ObjectStore,
        *,
        clock_ms: Callable[[], int],
        nonce: Callable[[], str],
        offload: Offload[Any],
        scratch: Path,
        locks: Callable[[DatabaseId], AbstractContextManager[Any]],
        limits: Limits,
        in_parallel: InParallel = map,
        quota: Quota = Quota(),  # noqa: B008 - frozen
        check: Callable[[int, Shard, Summary], None] | None = None,
    ) -> None:
        """`quota`: of users who have none of their own."""
        self._quota, self._check = quota, check
        self._databases = databases
        self._heads = heads
        self._objects = objects
        self._clock_ms = clock_ms
        self._nonce = nonce
        self._offload = offload
        self._scratch = scratch
        self._locks = locks
        self._limits = limits
        self._in_parallel = in_parallel
        self._mark = HeadsMark(heads, objects, nonce)
        self._orders: Orders | None = None

    def note_start(self, monotonic_s: Callable[[], float]) -> None:
        """Advance the mark, and log databases whose head record is lost; searches for one second.

        Call it once when a worker starts. If the mark shows a fault, that is logged, and nothing else is
        done.
        """
        if (fault := self._mark.find_fault()) is not None:
            log.error("%s. Put back what belongs together, or accept the loss: %s", fault, _ACCEPT)
            return
        self._mark.advance(self._clock_ms())
        end_s = monotonic_s() + _LOOK_S
        for lost in list_lost(self._heads, self._objects, go_on=lambda: monotonic_s() < end_s):
            if lost.evidence.is_proof:
                what = "of an earlier moment" if lost.has_record else "lost"
                log.error("the head record of %s is %s: %s", lost.database, what, lost.evidence.text)

    def run(self, *, is_full: bool = False, shard: Shard = EVERYTHING, accept_loss: bool = False) -> Summary:
        """Compact and sweep the databases that changed since the last run of this shard, or all if due.

        An error of one database is logged and counted, and the run goes on. Nothing is deleted if head
        records or the clock may be wrong. With `accept_loss` head records count as right, and the run is a
        full one.
        """
        summary = Summary()
        if (fault := self._mark.find_fault()) is not None and not accept_loss:
            summary.refused.append(f"{fault}; nothing was touched")
            return summary
        # Ages count by the object store's clock.
        now_ms = self._read_clock(summary)
        if now_ms is None:
            self._go_through(self._changed(0, shard), None, summary, accept_loss=False)
            return summary
        self._mark.advance(now_ms, accept=accept_loss)
        self._mark.remove_older()
        self._orders = self._read_orders()
        run_log = RunLog(self._objects, self._nonce, shard.number, shard.count)
        last = self._last_run(run_log)
        if not accept_loss and last.seen_ms and not self._is_plausible(last, now_ms, summary):
            # Only the time: if the clock is right, the next run deletes.
            run_log.write(replace(last, seen_ms=now_ms))
            return summary
        run = _planned(last, now_ms, is_full=is_full or accept_loss)
        recorded = self._recorded(run, summary, accept_loss=accept_loss)
        if recorded is not None:
            self._do(run, recorded, run_log, shard, now_ms, summary, accept_loss=accept_loss)
            if self._check is not None:
                self._check(now_ms, shard, summary)
        return summary

    def compact(self, database: DatabaseId) -> bool:
        """Compact one database if that is due; returns whether it was done."""
        try:
            return self._databases.compact(database)
        except Conflict:
            return False  # another commit was first; it adds the database to the queue if that is still due

    def _read_clock(self, summary: Summary) -> int | None:
        try:
            return read_clock(self._objects, self._clock_ms)
        except DeletionUnsafe as exc:
            summary.refused.append(str(exc))
            return None

    def _last_run(self, run_log: RunLog) -> Run:
        try:
            return run_log.read()
        except (Corrupt, NotFound):
            log.exception("what is known of the last run cannot be read: this one is the first")
            return Run()

    def _is_plausible(self, last: Run, now_ms: int, summary: Summary) -> bool:
        """Whether the time since the last run is plausible; if the clock is right, it is in the next run."""
        passed_ms = now_ms - last.seen_ms
        if -_CLOCKS_MS < passed_ms < _LONGEST_GAP_MS:
            return True
        summary.refused.append(
            f"by the store's clock {passed_ms // 86_400_000} days have passed since the last run: "
            "nothing was deleted; if the clock is right, the next run goes on"
        )
        return False

    def _recorded(self, run: Run, summary: Summary, *, accept_loss: bool) -> list[DatabaseId] | None:
        """All databases in a full run, else none. Returns None if too many are missing to delete anything."""
        if not run.is_full:
            return []
        recorded = list(list_databases(self._heads))
        if len(recorded) < run.databases * _LEAST_SHARE and not accept_loss:
            summary.refused.append(
                f"only {len(recorded)} databases have a head record, {run.databases} had one at the last "
                "full run: nothing was touched"
            )
            return None
        return recorded

    def _changed(self, since_ms: int, shard: Shard) -> Iterator[DatabaseId]:
        changed = self._heads.list_changed(since_ms)
        return (database for database in changed if database.user != STORE.user and shard.has(database))

    def _do(  # noqa: PLR0913, PLR0917 - one caller
        self,
        run: Run,
        recorded: list[DatabaseId],
        run_log: RunLog,
        shard: Shard,
        now_ms: int,
        summary: Summary,
        *,
        accept_loss: bool,
    ) -> None:
        own = filter(shard.has, recorded) if run.is_full else self._changed(run.since_ms, shard)
        doubtful: set[DatabaseId] = set()
        was_away = False
        # An interrupted run continues after the last database that was done.
        rest = (database for database in own if str(database) > run.after)
        while batch := list(itertools.islice(rest, _AT_ONCE)):
            found, away = self._go_through(batch, now_ms, summary, accept_loss=accept_loss)
            doubtful |= found
            was_away = was_away or away
            run = replace(run, seen_ms=now_ms, after=str(batch[-1]))
            if len(batch) == _AT_ONCE and not was_away:
                run_log.write(run)
        blobs = run.blobs
        # Contents are shared by all users, so only one shard sweeps them.
        if run.is_full and shard.number == 1:
            try:
                blobs = self._sweep_blobs(run, recorded, doubtful, now_ms, summary, accept_loss=accept_loss)
            except StorageError as exc:
                log.exception("contents of media were not swept")
                summary.refused.append(f"contents of media were not swept: {exc}")
        if was_away:
            return  # the next run takes the same databases
        full_ms = run.started_ms if run.is_full else run.full_ms
        count = len(recorded) if run.is_full else run.databases
        run_log.write(Run(now_ms, run.started_ms, full_ms, count, blobs))

    def _go_through(
        self, databases: Iterable[DatabaseId], now_ms: int | None, summary: Summary, *, accept_loss: bool
    ) -> tuple[set[DatabaseId], bool]:
        """Process some databases; returns (those with a doubtful head, whether a store was unavailable)."""
        doubtful: set[DatabaseId] = set()
        was_away = False
        batch = list(databases)
        tend = partial(self._tend, now_ms=now_ms, accept_loss=accept_loss)
        for database, outcome in zip(batch, self._in_parallel(tend, batch), strict=True):
            summary.databases += 1
            summary.compacted += outcome.compacted
            summary.deleted += outcome.deleted
            summary.deleted_bytes += outcome.deleted_bytes
            if outcome.is_doubtful:
                doubtful.add(database)
            if outcome.error is not None:
                log.error("upkeep of %s failed", database, exc_info=outcome.error)
                summary.failed += 1
                was_away = was_away or isinstance(outcome.error, Unavailable)
        return doubtful, was_away

    def _most_bytes(self, database: DatabaseId) -> int | None:
        """From when on the history of a database is thinned; None: it is not."""
        if self._orders is None or database.kind is not DatabaseKind.COLLECTION:
            return None
        return self._orders.quota_of(database.user, self._quota).collection_bytes

    def _read_orders(self) -> Orders | None:
        try:
            return OrdersRecord(self._heads, self._clock_ms, self._nonce).read()
        except Corrupt:
            log.exception("the operator's orders cannot be read: no history is thinned")
            return None

    def _tend(self, database: DatabaseId, *, now_ms: int | None, accept_loss: bool) -> _Outcome:
        """Compact a database, and sweep it unless `now_ms` is None."""
        compacted = False
        try:
            compacted = self.compact(database)
            if now_ms is None:
                return _Outcome(compacted, 0, 0, is_doubtful=False, error=None)
            most_bytes = self._most_bytes(database)
            swept = self._databases.sweep(database, now_ms, accept_loss=accept_loss, most_bytes=most_bytes)
            # Only if it has not changed since: else the next run covers it again.
            self._heads.settle(database, swept.chain_revision)
        except StorageError as exc:
            return _Outcome(compacted, 0, 0, is_doubtful=isinstance(exc, DeletionUnsafe), error=exc)
        return _Outcome(compacted, swept.deleted, swept.deleted_bytes, bool(swept.doubt), None)

    def _sweep_blobs(  # noqa: PLR0913 - one caller
        self,
        run: Run,
        recorded: Sequence[DatabaseId],
        doubtful: set[DatabaseId],
        now_ms: int,
        summary: Summary,
        *,
        accept_loss: bool,
    ) -> int:
        """Delete media contents to which no database refers; returns the number of those that are in use."""
        databases, unrecorded = list(recorded), set[DatabaseId]()
        # A listing of head records may be incomplete for a moment (DynamoDB's index); one of objects is not.
        for database, has_record in list_unlisted(self._heads, self._objects, frozenset(recorded)):
            if has_record or not accept_loss:
                databases.append(database)
            if not has_record:
                log.error("%s has objects but no head record", database)
                summary.failed += 1
                unrecorded.add(database)
        doubtful = set() if accept_loss else doubtful | unrecorded
        media = [database for database in databases if database.kind is DatabaseKind.MEDIA]
        since_s = names_since_s(now_ms, self._limits.history_ms)

        def read(database: DatabaseId) -> Contents:
            with self._locks(database):
                return read_contents(
                    self._databases, database, since_s, self._offload, is_doubtful=database in doubtful
                )

        swept = sweep_blobs(
            self._objects,
            _flat(self._in_parallel(read, batch) for batch in _batches(media)),
            now_ms=now_ms,
            grace_ms=self._limits.sweep_grace_ms,
            scratch=self._scratch,
            offload=self._offload,
            least_named=0 if accept_loss else int(run.blobs * _LEAST_SHARE),
        )
        summary.failed += swept.unreadable
        summary.deleted += swept.deleted
        summary.deleted_bytes += swept.deleted_bytes
        return swept.named


def _planned(last: Run, now_ms: int, *, is_full: bool) -> Run:
    """The run that was interrupted, or a new one."""
    is_full = is_full or now_ms - last.full_ms >= FULL_EVERY_MS
    if last.started_ms and last.is_full == is_full:
        return last
    # Overlaps with the last run, as clocks differ.
    since_ms = max(0, last.finished_ms - _CLOCKS_MS)
    return replace(last, started_ms=now_ms, is_full=is_full, since_ms=since_ms, after="")


def _batches(items: Sequence[A]) -> Iterator[Sequence[A]]:
    return (items[at : at + _AT_ONCE] for at in range(0, len(items), _AT_ONCE))


def _flat(groups: Iterable[Iterable[B]]) -> Iterator[B]:
    return itertools.chain.from_iterable(groups)
