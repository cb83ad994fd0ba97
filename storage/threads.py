"""Native threads in a process whose `threading` module gevent has patched to use greenlets.

Used for blocking work that must not wait for gevent's pool. Code in these threads must not use greenlets, nor
locks that gevent has replaced.
"""

from __future__ import annotations

import _thread
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Job = Callable[[], None]


class NativeThreads(NamedTuple):
    """The functions of `_thread` as they were before gevent replaced them."""

    start_new_thread: Callable[..., Any]
    allocate_lock: Callable[[], Any]
    get_ident: Callable[[], int]


def native_threads() -> NativeThreads:
    """The original functions. Call it at each use, as gevent may patch the modules later than the import."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return NativeThreads(_thread.start_new_thread, _thread.allocate_lock, _thread.get_ident)
    names = ["start_new_thread", "allocate_lock", "get_ident"]
    return NativeThreads(*monkey.get_original("_thread", names))


def run_in_two_threads(jobs: Sequence[Job]) -> None:
    """Run all jobs, two at a time, in order; raises the exception of the first one that failed.

    Jobs must not use greenlets. After a failure no further job is started.
    """
    waiting = deque(jobs)
    failures: list[BaseException] = []
    native = native_threads()
    done = native.allocate_lock()
    done.acquire()

    def work() -> None:
        while waiting and not failures:
            try:
                # The other thread may have taken the last job in between.
                job = waiting.popleft()
            except IndexError:
                return
            try:
                job()
            except BaseException as exc:  # noqa: BLE001 - raised again by the caller's thread
                failures.append(exc)

    def work_in_thread() -> None:
        try:
            work()
        finally:
            done.release()

    # The caller's thread is the second one.
    native.start_new_thread(work_in_thread, ())
    work()
    done.acquire()
    if failures:
        raise failures[0]
