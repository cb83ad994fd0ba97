"""Thread pools for work that would block the event loop: SQLite, zstd, hashing, fsync.

`app.main` creates one `ThreadPools` per process. It has three pools: for small requests, for transfers of
files, and for checks of uploaded collections, so that small requests never wait for large ones. Within a
pool, users (owners) take turns.
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
"""Gives a fifth of the normal CPU weight. With less, a large upload during many small requests would take
longer than the 30 s that clients wait."""

_ADMISSION_THREADS = 2
"""Checking a large collection takes a core for a minute; the other cores stay free for other requests."""

_ADMISSION_PATIENCE_S = 25
"""Clients give up after 30 s without an answer; a check that has not started by then raises Unavailable."""

T = TypeVar("T")


class _Job:
    """A function that waits for a thread or runs in one."""

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
        """`niceness` is added to that of the threads, on systems that have one per thread.

        A job that has not been started within `patience_s` raises Unavailable.
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
        # Waiting jobs by owner; the first owner is the next one.
        self._queues: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._running_of: Counter[str] = Counter()
        # The C class, which gevent does not patch: `get` blocks the thread, and releases the interpreter's
        # lock.
        self._given: _queue.SimpleQueue[_Job] = _queue.SimpleQueue()
        self._done: deque[tuple[_Job, Any, BaseException | None]] = deque()
        self._wake = self._hub.loop.async_()
        self._wake.start(self._deliver)

    def apply(self, function: Callable[[], T], owner: str = "") -> T:
        """Run a function in one of the threads, and return its result, while other greenlets run.

        Called in one of the threads, it calls the function directly. Raises what the function raises.
        """
        if self._get_ident() != self._home:
            return function()  # called in a native thread
        job = _Job(Waiter(self._hub), function, owner)
        self._queues.setdefault(owner, deque()).append(job)
        self._give_out()
        result, error = self._wait(job)
        if error is not None:
            try:
                raise error
            finally:
                del error  # avoids a reference cycle: the traceback refers to this frame
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
        """Called by the event loop when the job has waited for `patience_s`."""
        queue = self._queues.get(job.owner)
        # It has got a thread in the meantime.
        if job.is_started or queue is None or job not in queue:
            return
        queue.remove(job)
        if not queue:
            del self._queues[job.owner]
        job.waiter.switch((None, Unavailable("too much of this work is waiting", 30)))

    def _give_out(self) -> None:
        """Give waiting jobs to idle threads; starts threads up to `most`."""
        while self._running < self._most and (job := self._take_next()) is not None:
            job.is_started = True
            if self._running >= self._threads:
                self._start(self._work, ())
                self._threads += 1
            self._running += 1
            self._running_of[job.owner] += 1
            self._given.put(job)

    def _take_next(self) -> _Job | None:
        # The first owner in turn that has a waiting job and a free share of threads.
        owner = next((one for one in self._queues if self._running_of[one] < self._most_each), None)
        if owner is None:
            return None
        queue = self._queues[owner]
        job = queue.popleft()
        if queue:
            # Its next job waits until all other owners had a turn.
            self._queues.move_to_end(owner)
        else:
            del self._queues[owner]
        return job

    def _work(self) -> None:
        if self._niceness and sys.platform == "linux":
            # Linux has a niceness per thread. It is an optimisation only, and a sandbox may forbid it.
            with suppress(OSError):
                thread = self._native_id()
                niceness = os.getpriority(os.PRIO_PROCESS, thread) + self._niceness
                os.setpriority(os.PRIO_PROCESS, thread, niceness)
        take, done, wake = self._given.get, self._done.append, self._wake.send
        while True:
            job = take()
            try:
                done((job, job.function(), None))
            except BaseException as exc:  # noqa: BLE001 - raised again in the greenlet that waits
                done((job, None, exc))
            wake()
            # Do not keep the result's objects alive while waiting for the next job.
            del job

    def _deliver(self) -> None:
        """Called by the event loop when there are results; one event may stand for several of them."""
        while self._done:
            job, result, error = self._done.popleft()
            self._running -= 1
            self._running_of[job.owner] -= 1
            if not self._running_of[job.owner]:
                del self._running_of[job.owner]
            self._give_out()
            job.waiter.switch((result, error))


class ThreadPools:
    """The thread pools of a server process; create it after the fork."""

    def __init__(self, *, quick_threads: int, transfer_threads: int) -> None:
        self._quick = NativeThreads(quick_threads, most_each=max(1, quick_threads * 3 // 4))
        self._transfers = NativeThreads(
            transfer_threads, _TRANSFER_NICENESS, most_each=max(1, transfer_threads // 2)
        )
        self._admissions = NativeThreads(
            _ADMISSION_THREADS, _TRANSFER_NICENESS, most_each=1, patience_s=_ADMISSION_PATIENCE_S
        )
        # Pool and owner for the work of the current greenlet.
        self._lane: ContextVar[tuple[NativeThreads, str]] = ContextVar("lane")

    def run(self, function: Callable[[], T]) -> T:
        """Run a function in a thread of the current greenlet's pool (the `Offload` of the process)."""
        lane = self._lane.get(None)
        return self._quick.apply(function) if lane is None else lane[0].apply(function, lane[1])

    def serve(self, owner: str) -> None:
        """From now on the current greenlet's work counts as `owner`'s."""
        self._lane.set((self._quick, owner))

    def transfer(self, owner: str = "") -> AbstractContextManager[None]:
        """Within the block, the current greenlet's work goes to the pool for transfers."""
        return self._within(self._transfers, owner)

    def admission(self, owner: str) -> AbstractContextManager[None]:
        """Within the block, the current greenlet's work goes to the pool for checks of uploads."""
        return self._within(self._admissions, owner)

    @contextmanager
    def _within(self, pool: NativeThreads, owner: str) -> Iterator[None]:
        token = self._lane.set((pool, owner))
        try:
            yield
        finally:
            self._lane.reset(token)
