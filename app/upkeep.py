"""What keeps the store small: compaction, and deleting what nothing names any more.

Off every request's way; may be broken off at any point, and run beside the workers or another run.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import msgspec
from filelock import FileLock, Timeout

from storage.database.store import DatabaseStore, Limits
from storage.errors import Conflict, StorageError
from storage.heads.base import HeadStore
from storage.media.index import MediaIndex
from storage.media.sweep import newest_indexes, sweep_blobs
from storage.objects.base import ObjectStore
from storage.types import DatabaseId, Offload

RUN_EVERY_S = 24 * 3600
SETTLE_S = 2.0
"""A sync comes rarely alone: so long a chain rests before it is compacted."""

_MOST_DUE = 10_000

log = logging.getLogger("ankisyncd.upkeep")


class Summary(msgspec.Struct):
    """What a run has done."""

    databases: int = 0
    compacted: int = 0
    deleted: int = 0
    deleted_bytes: int = 0
    failed: int = 0


class Upkeep:
    """Goes through all databases, and then through the media contents that they name.

    `locks`: those that the requests of this process take before they work on a media index.
    """

    def __init__(  # noqa: PLR0913 - collaborators by name
        self,
        databases: DatabaseStore,
        heads: HeadStore,
        objects: ObjectStore,
        *,
        clock_ms: Callable[[], int],
        offload: Offload[Any],
        scratch: Path,
        locks: Callable[[DatabaseId], AbstractContextManager[Any]],
        limits: Limits,
    ) -> None:
        self._databases = databases
        self._heads = heads
        self._objects = objects
        self._clock_ms = clock_ms
        self._offload = offload
        self._scratch = scratch
        self._locks = locks
        self._limits = limits

    def clear_scratch(self) -> None:
        """Delete what requests of a process that was killed have left."""
        oldest_s = self._clock_ms() / 1000 - RUN_EVERY_S
        for path in self._scratch.iterdir():
            if path.is_file() and path.stat().st_mtime < oldest_s:
                path.unlink(missing_ok=True)

    def run(self) -> Summary:
        """Compact and sweep everything. A database that fails is logged and left as it is.

        Media contents are swept only if every index could be read: see `sweep_blobs`.
        """
        summary = Summary()
        self._offload(self.clear_scratch)
        for database in self._heads.list():
            summary.databases += 1
            try:
                summary.compacted += self.compact(database)
                swept = self._databases.sweep(database)
            except StorageError:
                log.exception("upkeep of %s failed", database)
                summary.failed += 1
                continue
            summary.deleted += swept.deleted
            summary.deleted_bytes += swept.deleted_bytes
        if not summary.failed:
            try:
                self._sweep_blobs(summary)
            except StorageError:
                log.exception("upkeep of media contents failed; none were deleted")
                summary.failed += 1
        return summary

    def _sweep_blobs(self, summary: Summary) -> None:
        blobs = sweep_blobs(
            self._objects,
            self._indexes(),
            clock_ms=self._clock_ms,
            grace_ms=self._limits.sweep_grace_ms,
            history_ms=self._limits.history_ms,
            scratch=self._scratch,
            offload=self._offload,
        )
        summary.deleted += blobs.deleted
        summary.deleted_bytes += blobs.deleted_bytes

    def compact(self, database: DatabaseId) -> bool:
        """Compact one database if that is due; whether it was done."""
        try:
            return self._databases.compact(database)
        except Conflict:
            return False  # somebody committed meanwhile, and will be told if it is still due

    def _indexes(self) -> Iterator[MediaIndex]:
        """The media index of every user, each while no request of this process is at it."""
        for database in self._heads.list():
            with self._locks(database):
                yield from newest_indexes(self._databases, [database])


class DueQueue:
    """Databases to compact, each once, in the order in which they became due.

    One that is asked for again has not come to rest: its sync would make a compaction void.
    """

    def __init__(self) -> None:
        self._restless: OrderedDict[DatabaseId, None] = OrderedDict()
        self._rested: OrderedDict[DatabaseId, None] = OrderedDict()

    def add(self, database: DatabaseId) -> None:
        """Ask for a compaction. What does not fit is found by the daily run."""
        self._rested.pop(database, None)
        if len(self._restless) < _MOST_DUE:
            self._restless[database] = None

    def settle(self) -> None:
        """From here on, what was asked for before the last `settle` and not since can be taken."""
        self._rested |= self._restless
        self._restless = OrderedDict()

    def take(self) -> DatabaseId | None:
        """The next one, or None."""
        return self._rested.popitem(last=False)[0] if self._rested else None


class Turn(Protocol):
    """Decides when everything is gone through, and by whom."""

    def take(self, run: Callable[[], Summary]) -> Summary | None:
        """What `run` returns, or None where it is not this process's turn."""


class NoTurn:
    """Where something else goes through everything."""

    def take(self, run: Callable[[], Summary]) -> Summary | None:
        """Never."""
        del run
        return None


class DailyTurn:
    """Lets one process of a host do something once a day."""

    def __init__(self, folder: Path, clock_ms: Callable[[], int]) -> None:
        self._lock = folder / "upkeep.lock"
        self._stamp = folder / "upkeep.time"
        self._clock_ms = clock_ms

    def take(self, run: Callable[[], Summary]) -> Summary | None:
        """What `run` returns, or None where it is not time, or another process is at it."""
        if not self._is_time():
            return None
        try:
            with FileLock(self._lock, timeout=0):
                if not self._is_time():
                    return None
                self._note()
                return run()
        except Timeout:
            return None

    def _is_time(self) -> bool:
        """A day after the last run, or after the first question."""
        try:
            last_s = self._stamp.stat().st_mtime
        except FileNotFoundError:
            self._note()
            return False
        return self._clock_ms() / 1000 - last_s >= RUN_EVERY_S

    def _note(self) -> None:
        self._stamp.touch()
        os.utime(self._stamp, (self._clock_ms() / 1000, self._clock_ms() / 1000))


class Housekeeper:
    """The upkeep of one worker: its own databases soon, everything when its turn comes.

    `sleep` lets the process go on.
    """

    def __init__(
        self,
        upkeep: Upkeep,
        due: DueQueue,
        *,
        sleep: Callable[[float], None],
        turn: Turn,
    ) -> None:
        self._upkeep = upkeep
        self._due = due
        self._sleep = sleep
        self._turn = turn

    def keep_house(self) -> None:
        """Go on for ever."""
        while True:
            self._sleep(SETTLE_S)
            self.tidy()

    def tidy(self) -> None:
        """Do what is due now; whatever fails is logged, and tried again another time."""
        try:
            self._due.settle()
            while (database := self._due.take()) is not None:
                self._upkeep.compact(database)
            summary = self._turn.take(self._upkeep.run)
        except Exception:
            log.exception("upkeep failed")
            return
        if summary is not None:
            log.info("upkeep: %s", summary)
