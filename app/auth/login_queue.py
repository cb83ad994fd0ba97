"""The queue of logins that wait for the verification of their password. Used by `authenticator`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager

from app.errors import ServiceUnavailable

_FORGET_S = 5.0
"""One arrival of a group is forgotten every so many seconds."""
_GROUPS_KEPT = 20_000


class _Waiter:
    __slots__ = ("called", "groups")

    def __init__(self, groups: Sequence[Hashable]) -> None:
        self.groups = groups
        self.called = threading.Event()


class LoginQueue:
    """A semaphore of `at_once` places. The waiting caller with the fewest recent arrivals is next.

    Arrivals are counted per group; a group is a property that callers share, such as the user name or the
    network. So during a flood of logins for one name, or from one network, all other logins go first. One
    per process.
    """

    def __init__(
        self, at_once: int, *, wait_s: float = 5.0, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._free, self._wait_s, self._clock_s = at_once, wait_s, clock_s
        self._lock = threading.Lock()
        self._waiting: dict[int, _Waiter] = {}
        self._arrivals = 0
        # Group -> the time when all its arrivals will be forgotten; each arrival adds _FORGET_S.
        self._forgotten_s: dict[Hashable, float] = {}

    @contextmanager
    def place(self, groups: Sequence[Hashable]) -> Iterator[None]:
        """Hold one of the places within the block.

        Raises: ServiceUnavailable if none became free within `wait_s`.
        """
        with self._lock:
            self._count(groups)
            number = self._arrivals
            waiter = None
            if self._free:
                self._free -= 1
            else:
                waiter = self._waiting[number] = _Waiter(groups)
        # A caller that is not in `_waiting` any more has been given a place, maybe just after the timeout.
        if waiter and not waiter.called.wait(self._wait_s):
            with self._lock:
                # Still waiting at the timeout.
                if self._waiting.pop(number, None):
                    raise ServiceUnavailable("too many logins at once")
        try:
            yield
        finally:
            with self._lock:
                self._pass_on()

    def _pass_on(self) -> None:
        """Give a free place to the next caller; takes a few microseconds per waiting caller."""
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
            # Drop groups whose arrivals are all forgotten; if there are still too many, start again with
            # none.
            kept = {group: end_s for group, end_s in self._forgotten_s.items() if end_s > now_s}
            self._forgotten_s = kept if len(kept) < _GROUPS_KEPT // 2 else {}
        for group in groups:
            self._forgotten_s[group] = max(now_s, self._forgotten_s.get(group, now_s)) + _FORGET_S

    def _recent(self, groups: Sequence[Hashable], now_s: float) -> float:
        return sum(max(0.0, self._forgotten_s.get(group, now_s) - now_s) for group in groups)
