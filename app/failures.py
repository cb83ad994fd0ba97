"""Keeps what is known of syncs that fail, so that an operator can tell a user why. Called for every failure.

The object is written beside the request, which does not wait for it. If the store is away, it is tried again
for a while; what is not written when the process ends is in the log alone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from storage.database.failures import Failure, failure_object
from storage.errors import StorageError
from storage.objects.base import ObjectStore
from storage.types import DatabaseId, UserId

_MOST_AN_HOUR: Final = 20
"""Of one user in one process: a device that fails again and again fails for the same reason."""
_MOST_WAITING: Final = 1000
_TRIES: Final = 60
_PAUSE_S: Final = 10.0
_HOUR_MS: Final = 3_600_000

log = logging.getLogger("ankisyncd.failures")


class FailureLog:
    """The failures of one worker process, on their way to the store."""

    def __init__(
        self,
        objects: ObjectStore,
        *,
        nonce: Callable[[], str],
        start_thread: Callable[[Callable[[], None]], None],
        sleep: Callable[[float], None],
    ) -> None:
        """`start_thread` runs a function while the caller goes on; `sleep` lets the process go on."""
        self._objects, self._nonce, self._start_thread, self._sleep = objects, nonce, start_thread, sleep
        self._waiting: deque[tuple[str, bytes]] = deque(maxlen=_MOST_WAITING)
        self._is_writing = False
        self._hour = 0
        self._counts: dict[UserId, int] = {}

    def note(self, database: DatabaseId, failure: Failure) -> None:
        """Keep a failure; returns at once."""
        if not self._is_one_of_few(database.user, failure.time_ms // _HOUR_MS):
            return
        self._waiting.append(failure_object(database, failure, self._nonce()))
        if not self._is_writing:
            self._is_writing = True
            self._start_thread(self._write)

    def _is_one_of_few(self, user: UserId, hour: int) -> bool:
        if hour != self._hour:
            self._hour, self._counts = hour, {}
        self._counts[user] = count = self._counts.get(user, 0) + 1
        return count <= _MOST_AN_HOUR

    def _write(self) -> None:
        tries = 0
        try:
            while self._waiting:
                key, content = self._waiting[0]
                try:
                    self._objects.put(key, content)
                except StorageError as exc:
                    tries += 1
                    if tries == _TRIES:
                        log.warning("%d failures of syncs are not kept: %s", len(self._waiting), exc)
                        self._waiting.clear()
                        return
                    self._sleep(_PAUSE_S)
                else:
                    if self._waiting and self._waiting[0][0] == key:  # a full queue drops its oldest
                        self._waiting.popleft()
        finally:
            self._is_writing = False
