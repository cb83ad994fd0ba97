"""The queue in which logins wait to be verified; see `Turns`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager

from app.errors import ServiceUnavailable

_FORGET_S = 5.0
"""One arrival of a group is forgotten in so many seconds."""
_GROUPS_KEPT = 20_000


class _Waiter:
    __slots__ = ("called", "groups")

    def __init__(self, groups: Sequence[Hashable]) -> None:
        self.groups = groups
        self.called = threading.Event()


class Turns:
    """Lets `at_once` callers in; of those that wait, the ones whose groups came least of late go first.

    A group is whatever callers have in common: a user name, a network. So a flood of logins for one
    name, or from one network, waits behind everybody else. One per process.
    """

    def __init__(
        self, at_once: int, *, wait_s: float = 5.0, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._free, self._wait_s, self._clock_s = at_once, wait_s, clock_s
        self._lock = threading.Lock()
        self._waiting: dict[int, _Waiter] = {}
        self._arrivals = 0
        # When the arrivals of a group will all be forgotten: each adds _FORGET_S to what is left.
        self._forgotten_s: dict[Hashable, float] = {}

    @contextmanager
    def turn(self, groups: Sequence[Hashable]) -> Iterator[None]:
        """Hold one of the places within the block.

        Raises: ServiceUnavailable when none became free in time.
        """
        with self._lock:
            self._count(groups)
            number = self._arrivals
            waiter = None
            if self._free:
                self._free -= 1
            else:
                waiter = self._waiting[number] = _Waiter(groups)
        # Whoever is no longer among those that wait has been given a place, if only at the last moment.
        if waiter and not waiter.called.wait(self._wait_s):
            with self._lock:
                if self._waiting.pop(number, None):
                    raise ServiceUnavailable("too many logins at once")
        try:
            yield
        finally:
            with self._lock:
                self._pass_on()

    def _pass_on(self) -> None:
        """Give a place to the next caller; a few microseconds for each that waits."""
        now_s = self._clock_s()
        if not self._waiting:
            self._free += 1
            return
        _, first = min(
            (self._recent(waiter.groups, now_s), number) for number, waiter in self._waiting.items()
        )
        self._waiting.pop(first).called.set()

    def _count(self, groups: Sequence[Hashable]) -> None:
        self._arrivals += 1
        now_s = self._clock_s()
        if len(self._forgotten_s) + len(groups) > _GROUPS_KEPT:
            kept = {group: end_s for group, end_s in self._forgotten_s.items() if end_s > now_s}
            self._forgotten_s = kept if len(kept) < _GROUPS_KEPT // 2 else {}
        for group in groups:
            self._forgotten_s[group] = max(now_s, self._forgotten_s.get(group, now_s)) + _FORGET_S

    def _recent(self, groups: Sequence[Hashable], now_s: float) -> float:
        return sum(max(0.0, self._forgotten_s.get(group, now_s) - now_s) for group in groups)
