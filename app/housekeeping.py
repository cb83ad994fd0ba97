"""Decides when a server process runs maintenance: compaction soon after commits, the rest once a day.

`app.main` creates a `Housekeeper` per worker, which runs in a greenlet of its own. The work itself is in
`app.upkeep`.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from app.upkeep import Summary, Upkeep
from storage.types import DatabaseId

RUN_EVERY_S = 24 * 3600
SETTLE_S = 2.0
"""Time without a commit before a chain is compacted, as several syncs often follow each other."""

_MOST_DUE = 10_000

log = logging.getLogger("ankisyncd.upkeep")


class DueQueue:
    """Databases to compact, each once, in the order in which they were added.

    A database that is added again has to wait again: a compaction would lose against the next commit.

        add ---> restless ---(settle)---> rested ---> take
                    ^                        |
                    +------- add again ------+
    """

    def __init__(self) -> None:
        self._restless: OrderedDict[DatabaseId, None] = OrderedDict()
        self._rested: OrderedDict[DatabaseId, None] = OrderedDict()

    def add(self, database: DatabaseId) -> None:
        """Add a database. If the queue is full it is dropped; the daily run compacts it."""
        # Back to the start of the wait.
        self._rested.pop(database, None)
        if len(self._restless) < _MOST_DUE:
            self._restless[database] = None

    def __len__(self) -> int:
        """How many wait."""
        return len(self._restless) + len(self._rested)

    def settle(self) -> None:
        """Make databases ready that have not been added again since the last call. Called every SETTLE_S."""
        self._rested |= self._restless
        self._restless = OrderedDict()

    def take(self) -> DatabaseId | None:
        """Remove and return the next ready database, or None."""
        return self._rested.popitem(last=False)[0] if self._rested else None


class Turn(Protocol):
    """Decides when this process runs the maintenance of all databases."""

    def take(self, run: Callable[[], Summary]) -> Summary | None:
        """Call `run` if it is due in this process, and return its result; else None."""


class NoTurn:
    """For processes that never run it, as it is scheduled elsewhere."""

    def take(self, run: Callable[[], Summary]) -> Summary | None:
        """Return None."""
        del run
        return None


class DailyTurn:
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


class Housekeeper:
    """The maintenance loop of one worker. `sleep` must not block the event loop."""

    def __init__(  # noqa: PLR0913 - collaborators by name
        self,
        upkeep: Upkeep,
        due: DueQueue,
        *,
        sleep: Callable[[float], None],
        turn: Turn,
        monotonic_s: Callable[[], float],
        is_closed: Callable[[], bool] = lambda: False,
        before: Callable[[], None] = _nothing,
    ) -> None:
        """`is_closed`: whether the operator wants the stores left alone. `before`: done first each time."""
        self._is_closed, self._before = is_closed, before
        self._monotonic_s = monotonic_s
        self._upkeep = upkeep
        self._due = due
        self._sleep = sleep
        self._turn = turn

    def keep_house(self) -> None:
        """Run maintenance for ever: `tidy` every SETTLE_S."""
        try:
            self._upkeep.note_start(self._monotonic_s)
        except Exception:
            log.exception("the stores could not be looked at")
        while True:
            self._sleep(SETTLE_S)
            self.tidy()

    def _run(self) -> Summary:
        self._before()
        return self._upkeep.run()

    def tidy(self) -> None:
        """Compact ready databases, and run the daily maintenance if it is due. Errors are logged."""
        if self._is_closed():
            return
        try:
            self._due.settle()
            while (database := self._due.take()) is not None:
                self._upkeep.compact(database)
            summary = self._turn.take(self._run)
        except Exception:
            log.exception("upkeep failed")
            return
        if summary is not None:
            log.info("upkeep: %s", summary)
