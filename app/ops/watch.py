"""Gauges that no request moves: looked at from time to time, in a greenlet of each worker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from app.ops import catalogue
from app.ops.meters import Meters
from app.ops.readiness import Fault, Readiness
from app.ops.requests import RequestMeter
from app.version import VERSION

_LOG: Final = logging.getLogger("ankisyncd")
_TICK_S: Final = 5.0
_READY_EVERY: Final = 12
"""Ticks: a minute."""
_RECORDS_EVERY: Final = 60
"""Ticks: five minutes. Maintenance runs once a day, and each look is two calls of the object store."""


class Watch:
    """What one worker looks at."""

    def __init__(  # noqa: PLR0913 - collaborators by name
        self,
        meters: Meters,
        requests: RequestMeter,
        readiness: Readiness,
        *,
        waiting: Callable[[], int],
        cache_bytes: Callable[[], Mapping[str, int]],
        times_ms: Mapping[str, Callable[[], int | None]],
    ) -> None:
        """`times_ms`: when something was last done, by the name of its metric; None for never."""
        self._meters, self._requests, self._readiness = meters, requests, readiness
        self._waiting, self._cache_bytes, self._times_ms = waiting, cache_bytes, times_ms
        self._ticks = 0

    def run(self, sleep: Callable[[float], None]) -> None:
        """Go on for ever."""
        self._meters.add(catalogue.STARTS)
        self._meters.set(catalogue.WORKERS, 1)
        self._meters.set(catalogue.BUILD, 1, VERSION)
        while True:
            self.tick()
            sleep(_TICK_S)

    def tick(self) -> None:
        """Look once."""
        self._requests.forget_quiet()
        self._meters.set(catalogue.WAITING, self._waiting())
        if self._ticks % _READY_EVERY == 0:
            self.look()
        if self._ticks % _RECORDS_EVERY == 0:
            self._note_records()
        self._ticks += 1

    def look(self) -> dict[str, Fault | None]:
        """As `Readiness.look`; what is found is also recorded."""
        faults = self._readiness.look()
        for service, fault in faults.items():
            self._meters.set(catalogue.READY, float(fault is None), service)
        return faults

    def _note_records(self) -> None:
        try:
            for cache, size_bytes in self._cache_bytes().items():
                self._meters.set(catalogue.CACHE_BYTES, size_bytes, cache)
            for name, time_ms in self._times_ms.items():
                if (found_ms := time_ms()) is not None:
                    self._meters.set(name, found_ms / 1000)
        except Exception as exc:  # noqa: BLE001 - the next look may succeed
            _LOG.warning("metrics of cache and maintenance cannot be had: %s: %s", type(exc).__name__, exc)
