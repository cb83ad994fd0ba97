"""Two threads for a list of jobs, real threads also where a thread is a greenlet.

SQLite reads without Python's lock, so a second core halves the time a full check takes.
"""

from __future__ import annotations

import _thread
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

Job = Callable[[], None]


def run_together(jobs: Sequence[Job]) -> None:
    """Run all jobs, the first ones first, two at a time; raises what the first failed one raised.

    The jobs must not touch greenlets. After a failure no further job is begun.
    """
    waiting = deque(jobs)
    failures: list[BaseException] = []
    native = _native()
    done = native.allocate_lock()
    done.acquire()

    def work() -> None:
        while waiting and not failures:
            try:
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

    native.start_new_thread(work_in_thread, ())
    work()
    done.acquire()
    if failures:
        raise failures[0]


class _Native:
    def __init__(self, start_new_thread: Callable[..., Any], allocate_lock: Callable[[], Any]) -> None:
        self.start_new_thread = start_new_thread
        self.allocate_lock = allocate_lock


def _native() -> _Native:
    """The thread functions as they were before gevent replaced them."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return _Native(_thread.start_new_thread, _thread.allocate_lock)
    start, lock = monkey.get_original("_thread", ["start_new_thread", "allocate_lock"])
    return _Native(start, lock)
