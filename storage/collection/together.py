"""Runs a list of jobs in two native threads. Used by the checks of uploads (`admit`).

SQLite releases Python's global lock while it reads, so a second core halves the time of a full check.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from storage.native import native_threads

Job = Callable[[], None]


def run_together(jobs: Sequence[Job]) -> None:
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
