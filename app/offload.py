"""Native threads for work that would hold the event loop: SQLite, zstd, hashing, fsync.

Three pools: for small requests, for transfers of files, and for checking uploaded collections. Work of one
never waits for threads of another, and within a pool users take turns.
"""

from __future__ import annotations

import _queue
import os
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import gevent
from gevent.hub import Waiter
from gevent.monkey import get_original

from storage.errors import Unavailable

_TRANSFER_NICENESS = 7
"""A fifth of the weight. With less, a large upload beside a storm of small requests would not be answered
within the 30 s that clients wait."""

_ADMISSION_THREADS = 2
"""A large collection takes a minute of a core to check; others are to have the rest."""

_ADMISSION_PATIENCE_S = 25
"""Clients give up after 30 s without an answer: what could not be begun by then is told to come back."""

T = TypeVar("T")


class _Job:
    """A function that waits for a thread, or runs in one."""

    __slots__ = ("function", "is_started", "owner", "waiter")

    def __init__(self, waiter: Waiter, function: Callable[[], Any], owner: str) -> None:
        self.waiter, self.function, self.owner = waiter, function, owner
        self.is_started = False


class NativeThreads:
    """A few threads for the greenlets of one event loop; started when they are first needed.

    Jobs of one owner run in their order; owners take turns, and none has more than `most_each` threads.

    gevent's own pool knows neither owners nor a limit to how long a job may wait; a call costs it
    about a quarter more CPU (14 and 18 microseconds, measured 2026-11-28).
    """

    def __init__(
        self, most: int, niceness: int = 0, *, most_each: int | None = None, patience_s: float | None = None
    ) -> None:
        """`niceness` is how far the threads stand back behind all others, where the system can tell them.

        A job that has not been started within `patience_s` ends with Unavailable.
        """
        self._most, self._threads, self._running = most, 0, 0
        self._most_each, self._patience_s = most_each or most, patience_s
        self._niceness = niceness
        self._hub = gevent.get_hub()
        self._start, get_ident, native_id = get_original(
            "_thread", ["start_new_thread", "get_ident", "get_native_id"]
        )
        self._get_ident: Callable[[], int] = get_ident
        self._native_id: Callable[[], int] = native_id
        self._home = self._get_ident()
        # Jobs without a thread, by owner; the owner whose turn is next comes first.
        self._queues: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._running_of: Counter[str] = Counter()
        # The C class, which gevent does not replace: its `get` waits without the interpreter's lock.
        self._given: _queue.SimpleQueue[_Job] = _queue.SimpleQueue()
        self._done: deque[tuple[_Job, Any, BaseException | None]] = deque()
        self._wake = self._hub.loop.async_()
        self._wake.start(self._deliver)

    def apply(self, function: Callable[[], T], owner: str = "") -> T:
        """Run in one of the threads, while other greenlets go on; raises what `function` raises."""
        if self._get_ident() != self._home:
            return function()  # already off the loop
        job = _Job(Waiter(self._hub), function, owner)
        self._queues.setdefault(owner, deque()).append(job)
        self._give_out()
        result, error = self._wait(job)
        if error is not None:
            try:
                raise error
            finally:
                del error  # or the traceback would hold this frame, and that the traceback
        found: T = result
        return found

    def _wait(self, job: _Job) -> tuple[Any, BaseException | None]:
        if job.is_started or self._patience_s is None:
            found: tuple[Any, BaseException | None] = job.waiter.get()
            return found
        timer = self._hub.loop.timer(self._patience_s)
        timer.start(self._give_up, job)
        try:
            found = job.waiter.get()
        finally:
            timer.close()
        return found

    def _give_up(self, job: _Job) -> None:
        """In the event loop: the job has waited for too long."""
        queue = self._queues.get(job.owner)
        if job.is_started or queue is None or job not in queue:
            return
        queue.remove(job)
        if not queue:
            del self._queues[job.owner]
        job.waiter.switch((None, Unavailable("too much of this work is waiting", 30)))

    def _give_out(self) -> None:
        """Give waiting jobs to threads, as long as there are any."""
        while self._running < self._most and (job := self._take_next()) is not None:
            job.is_started = True
            if self._running >= self._threads:
                self._start(self._work, ())
                self._threads += 1
            self._running += 1
            self._running_of[job.owner] += 1
            self._given.put(job)

    def _take_next(self) -> _Job | None:
        owner = next((one for one in self._queues if self._running_of[one] < self._most_each), None)
        if owner is None:
            return None
        queue = self._queues[owner]
        job = queue.popleft()
        if queue:
            self._queues.move_to_end(owner)
        else:
            del self._queues[owner]
        return job

    def _work(self) -> None:
        if self._niceness and sys.platform == "linux":
            # Linux counts each thread; threads that it starts are as nice. Nothing depends on it, and a
            # sandbox may forbid it.
            with suppress(OSError):
                thread = self._native_id()
                niceness = os.getpriority(os.PRIO_PROCESS, thread) + self._niceness
                os.setpriority(os.PRIO_PROCESS, thread, niceness)
        take, done, wake = self._given.get, self._done.append, self._wake.send
        while True:
            job = take()
            try:
                done((job, job.function(), None))
            except BaseException as exc:  # noqa: BLE001 - raised again in the greenlet that asked
                done((job, None, exc))
            wake()
            del job

    def _deliver(self) -> None:
        """In the event loop: one wake-up may stand for several results."""
        while self._done:
            job, result, error = self._done.popleft()
            self._running -= 1
            self._running_of[job.owner] -= 1
            if not self._running_of[job.owner]:
                del self._running_of[job.owner]
            self._give_out()
            job.waiter.switch((result, error))


class ThreadPools:
    """The offload of a server process; to be made after the fork."""

    def __init__(self, *, quick_threads: int, transfer_threads: int) -> None:
        self._quick = NativeThreads(quick_threads, most_each=max(1, quick_threads * 3 // 4))
        self._transfers = NativeThreads(
            transfer_threads, _TRANSFER_NICENESS, most_each=max(1, transfer_threads // 2)
        )
        self._admissions = NativeThreads(
            _ADMISSION_THREADS, _TRANSFER_NICENESS, most_each=1, patience_s=_ADMISSION_PATIENCE_S
        )
        # Which pool the work of this greenlet goes to, and for which owner.
        self._lane: ContextVar[tuple[NativeThreads, str]] = ContextVar("lane")

    def run(self, function: Callable[[], T]) -> T:
        """Run in a thread of the pool that this greenlet belongs to; other greenlets go on."""
        lane = self._lane.get(None)
        return self._quick.apply(function) if lane is None else lane[0].apply(function, lane[1])

    def serve(self, owner: str) -> None:
        """From here on this greenlet works for `owner`, whose turn it is among others."""
        self._lane.set((self._quick, owner))

    def transfer(self, owner: str = "") -> AbstractContextManager[None]:
        """Within the block, this greenlet's work goes to the transfers' pool, whoever asks for it."""
        return self._within(self._transfers, owner)

    def admission(self, owner: str) -> AbstractContextManager[None]:
        """Within the block, this greenlet's work goes to the few threads that check uploaded collections."""
        return self._within(self._admissions, owner)

    @contextmanager
    def _within(self, pool: NativeThreads, owner: str) -> Iterator[None]:
        token = self._lane.set((pool, owner))
        try:
            yield
        finally:
            self._lane.reset(token)
