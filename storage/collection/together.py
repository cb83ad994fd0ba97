"""Two threads for a list of jobs, real threads also where a thread is a greenlet.

SQLite reads without Python's lock, so a second core halves the time a full check takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from storage.native import native_threads

Job = Callable[[], None]


def run_together(jobs: Sequence[Job]) -> None:
    """Run all jobs, the first ones first, two at a time; raises what the first failed one raised.

    The jobs must not touch greenlets. After a failure no further job is begun.
    """
    waiting = deque(jobs)
    failures: list[BaseException] = []
    native = native_threads()
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
