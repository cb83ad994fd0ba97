"""When maintenance is done in a server process: its own databases soon, everything when its turn comes."""

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
"""A sync comes rarely alone: so long a chain rests before it is compacted."""

_MOST_DUE = 10_000

log = logging.getLogger("ankisyncd.upkeep")


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

    def __len__(self) -> int:
        """How many wait."""
        return len(self._restless) + len(self._rested)

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
        """A day after the last run, or after the first question.

        A stamp in the future is of a clock that was ahead: the day begins anew.
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
    """The upkeep of one worker: its own databases soon, everything when its turn comes.

    `sleep` lets the process go on.
    """

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
        """Go on for ever."""
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
        """Do what is due now; whatever fails is logged, and tried again another time."""
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
