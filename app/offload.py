"""Native threads for work that would hold the event loop: SQLite, zstd, hashing, fsync.

Two pools, so that whole-file transfers never take the threads that small requests wait for.
"""

from __future__ import annotations

import _queue
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import gevent
from gevent.hub import Waiter
from gevent.monkey import get_original

_TRANSFER_NICENESS = 7
"""A fifth of the weight. With less, a large upload beside a storm of small requests would not be answered
within the 30 s that clients wait."""

T = TypeVar("T")

_Job = tuple[Waiter, Callable[[], Any]]


class NativeThreads:
    """A few threads for the greenlets of one event loop; started when they are first needed.

    gevent's own pool does the same with locks written in Python, and costs three times as much per
    call: with a dozen calls in a sync that is seen.
    """

    def __init__(self, most: int, niceness: int = 0) -> None:
        """`niceness` is how far the threads stand back behind all others, where the system can tell them."""
        self._most, self._threads, self._jobs = most, 0, 0
        self._niceness = niceness
        self._hub = gevent.get_hub()
        self._start, get_ident, native_id = get_original(
            "_thread", ["start_new_thread", "get_ident", "get_native_id"]
        )
        self._get_ident: Callable[[], int] = get_ident
        self._native_id: Callable[[], int] = native_id
        self._home = self._get_ident()
        # The C class, which gevent does not replace: its `get` waits without the interpreter's lock.
        self._waiting: _queue.SimpleQueue[_Job] = _queue.SimpleQueue()
        self._done: deque[tuple[Waiter, Any, BaseException | None]] = deque()
        self._wake = self._hub.loop.async_()
        self._wake.start(self._deliver)

    def apply(self, function: Callable[[], T]) -> T:
        """Run in one of the threads, while other greenlets go on; raises what `function` raises."""
        if self._get_ident() != self._home:
            return function()  # already off the loop
        if self._jobs >= self._threads and self._threads < self._most:
            self._start(self._work, ())
            self._threads += 1
        self._jobs += 1
        waiter = Waiter(self._hub)
        self._waiting.put((waiter, function))
        result: T
        result, error = waiter.get()
        if error is not None:
            try:
                raise error
            finally:
                del error  # or the traceback would hold this frame, and that the traceback
        return result

    def _work(self) -> None:
        if self._niceness and sys.platform == "linux":
            # Linux counts each thread; threads that it starts are as nice. Nothing depends on it, and a
            # sandbox may forbid it.
            with suppress(OSError):
                thread = self._native_id()
                niceness = os.getpriority(os.PRIO_PROCESS, thread) + self._niceness
                os.setpriority(os.PRIO_PROCESS, thread, niceness)
        take, done, wake = self._waiting.get, self._done.append, self._wake.send
        while True:
            waiter, function = take()
            try:
                done((waiter, function(), None))
            except BaseException as exc:  # noqa: BLE001 - raised again in the greenlet that asked
                done((waiter, None, exc))
            wake()
            del waiter, function

    def _deliver(self) -> None:
        """In the event loop: one wake-up may stand for several results."""
        while self._done:
            waiter, result, error = self._done.popleft()
            self._jobs -= 1
            waiter.switch((result, error))


class ThreadPools:
    """The offload of a server process; to be made after the fork."""

    def __init__(self, *, quick_threads: int, transfer_threads: int) -> None:
        self._quick = NativeThreads(quick_threads)
        self._transfers = NativeThreads(transfer_threads, _TRANSFER_NICENESS)
        self._transferring: ContextVar[bool] = ContextVar("transferring", default=False)

    def run(self, function: Callable[[], T]) -> T:
        """Run in a thread of the pool that this greenlet belongs to; other greenlets go on."""
        pool = self._transfers if self._transferring.get() else self._quick
        return pool.apply(function)

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """Within the block, this greenlet's work goes to the transfers' pool, whoever asks for it."""
        token = self._transferring.set(True)
        try:
            yield
        finally:
            self._transferring.reset(token)
