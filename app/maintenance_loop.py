"""Decides when a server process runs maintenance: compaction soon after commits, the rest once a day.

`app.main` creates a `MaintenanceLoop` per worker, which runs in a greenlet of its own. The work itself is in
`app.maintenance`.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from app.maintenance import Maintenance, Summary
from storage.types import DatabaseId

RUN_EVERY_S = 24 * 3600
SETTLE_S = 2.0
"""Time without a commit before a chain is compacted, as several syncs often follow each other."""

_MOST_DUE = 10_000

log = logging.getLogger("ankisyncd.upkeep")


class CompactionQueue:
    """Databases to compact, each once, in the order in which they were added.

    A database that is added again has to wait again: a compaction would lose against the next commit.

        add ---> restless ---(settle)---> rested ---> take
                    ^                        |
                    +------- add again ------+
    """

    def __init__(self) -> None:
        self._fresh: OrderedDict[DatabaseId, None] = OrderedDict()
        self._ready: OrderedDict[DatabaseId, None] = OrderedDict()

    def add(self, database: DatabaseId) -> None:
        """Add a database. If the queue is full it is dropped; the daily run compacts it."""
        # Back to the start of the wait.
        self._ready.pop(database, None)
        if len(self._fresh) < _MOST_DUE:
            self._fresh[database] = None

    def __len__(self) -> int:
        """How many wait."""
        return len(self._fresh) + len(self._ready)

    def age(self) -> None:
        """Make databases ready that have not been added again since the last call. Called every SETTLE_S."""
        self._ready |= self._fresh
        self._fresh = OrderedDict()

    def take(self) -> DatabaseId | None:
        """Remove and return the next ready database, or None."""
        return self._ready.popitem(last=False)[0] if self._ready else None


class Schedule(Protocol):
    """Decides when this process runs the maintenance of all databases."""

    def take(self, run: Callable[[], Summary]) -> Summary | None:
        """Call `run` if it is due in this process, and return its result; else None."""


class Never:
    """For processes that never run it, as it is scheduled elsewhere."""

    def take(self, run: Callable[[], Summary]) -> Summary | None:
        """Return None."""
        del run
        return None


class Daily:
    """Lets one process of a host run it once a day.

    A file lock excludes other processes; the time of the last run is the modification time of another file.
    """

    def __init__(self, folder: Path, clock_ms: Callable[[], int]) -> None:
        self._lock = folder / "upkeep.lock"
        self._stamp = folder / "upkeep.time"
        self._clock_ms = clock_ms

    def take(self, run: Callable[[], Summary]) -> Summary | None:
        """Call `run` if a day has passed and no other process runs it; else None."""
        if not self._is_time():
            return None
        try:
            # Checked again under the lock: another process may have just finished.
            with FileLock(self._lock, timeout=0):
                if not self._is_time():
                    return None
                self._note()
                return run()
        except Timeout:
            return None

    def _is_time(self) -> bool:
        """Whether a day has passed since the last run or, if there was none, since the first call.

        If the time of the last run is in the future, the clock was ahead: then a day from now counts.
        """
        try:
            passed_s = self._clock_ms() / 1000 - self._stamp.stat().st_mtime
        except FileNotFoundError:
            passed_s = -1.0
        if passed_s < 0:
            self._note()
        return passed_s >= RUN_EVERY_S

    def _note(self) -> None:
        self._stamp.touch()
        os.utime(self._stamp, (self._clock_ms() / 1000, self._clock_ms() / 1000))


def _nothing() -> None:
    pass


class MaintenanceLoop:
    """The maintenance loop of one worker. `sleep` must not block the event loop."""

    def __init__(  # noqa: PLR0913 - collaborators by name
        self,
        maintenance: Maintenance,
        due: CompactionQueue,
        *,
        sleep: Callable[[float], None],
        schedule: Schedule,
        monotonic_s: Callable[[], float],
        is_closed: Callable[[], bool] = lambda: False,
        before: Callable[[], None] = _nothing,
    ) -> None:
        """`is_closed`: whether the operator wants the stores left alone. `before`: done first each time."""
        self._is_closed, self._before = is_closed, before
        self._monotonic_s = monotonic_s
        self._maintenance = maintenance
        self._due = due
        self._sleep = sleep
        self._schedule = schedule

    def run_forever(self) -> None:
        """Run maintenance for ever: `run_once` every SETTLE_S."""
        try:
            self._maintenance.note_start(self._monotonic_s)
        except Exception:
            log.exception("the stores could not be looked at")
        while True:
            self._sleep(SETTLE_S)
            self.run_once()

    def _run(self) -> Summary:
        self._before()
        return self._maintenance.run()

    def run_once(self) -> None:
        """Compact ready databases, and run the daily maintenance if it is due. Errors are logged."""
        if self._is_closed():
            return
        try:
            self._due.age()
            while (database := self._due.take()) is not None:
                self._maintenance.compact(database)
            summary = self._schedule.take(self._run)
        except Exception:
            log.exception("upkeep failed")
            return
        if summary is not None:
            log.info("upkeep: %s", summary)
