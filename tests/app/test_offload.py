"""Native threads beside an event loop."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import gevent
import pytest
from gevent.monkey import get_original

from app.offload import NativeThreads, ThreadPools
from storage.errors import Unavailable

native_ident, native_lock, native_id, start_thread = get_original(
    "_thread", ["get_ident", "allocate_lock", "get_native_id", "start_new_thread"]
)


def test_work_runs_in_another_thread_and_its_result_comes_back() -> None:
    threads = NativeThreads(2)
    assert threads.apply(native_ident) != native_ident()
    assert threads.apply(lambda: 7) == 7


def test_an_error_of_the_work_is_raised_where_it_was_asked_for() -> None:
    threads = NativeThreads(1)
    with pytest.raises(KeyError, match="lost"):
        threads.apply(lambda: {}["lost"])
    assert threads.apply(lambda: "and the thread goes on") == "and the thread goes on"


def test_other_greenlets_go_on_while_one_waits() -> None:
    threads, gate = NativeThreads(1), native_lock()
    gate.acquire()
    waiting = gevent.spawn(threads.apply, lambda: gate.acquire() and "through")
    gevent.sleep(0)
    gate.release()
    assert waiting.get(timeout=10) == "through"


def test_no_more_threads_than_allowed_are_started() -> None:
    threads = NativeThreads(3)
    jobs = [gevent.spawn(threads.apply, native_ident) for _ in range(50)]
    gevent.joinall(jobs, timeout=10, raise_error=True)
    assert len({job.value for job in jobs}) <= 3


def test_a_greenlet_that_gave_up_waiting_does_not_get_the_result_of_its_work() -> None:
    threads, gate = NativeThreads(1), native_lock()
    gate.acquire()

    def ask() -> str:
        with gevent.Timeout(0.01, exception=False):
            threads.apply(lambda: gate.acquire() and "too late")
        gate.release()
        return threads.apply(lambda: "the next")

    assert gevent.spawn(ask).get(timeout=10) == "the next"


def test_work_that_asks_for_more_work_does_it_on_the_spot() -> None:
    threads = NativeThreads(1)
    here, nested = threads.apply(lambda: (native_ident(), threads.apply(native_ident)))
    assert here == nested


def test_a_transfer_never_takes_the_threads_of_small_requests() -> None:
    pools, gate = ThreadPools(quick_threads=1, transfer_threads=1), native_lock()
    gate.acquire()

    def transfer() -> object:
        with pools.transfer():
            return pools.run(gate.acquire)

    long = gevent.spawn(transfer)
    gevent.sleep(0)
    assert pools.run(os.getpid) == os.getpid()
    gate.release()
    assert long.get(timeout=10)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads are as nice as their process")
def test_threads_of_transfers_and_what_they_start_stand_back() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, native_id())

    def of_a_thread_it_starts() -> int:
        found, done = [], native_lock()
        done.acquire()
        start_thread(lambda: (found.append(niceness()), done.release()), ())
        done.acquire()
        return found[0]

    pools = ThreadPools(quick_threads=1, transfer_threads=1)
    own = niceness()
    assert pools.run(niceness) == own
    with pools.transfer():
        assert pools.run(niceness) > own
        assert pools.run(of_a_thread_it_starts) > own
    assert niceness() == own


def test_threads_work_where_the_system_does_not_let_them_stand_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_words: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", forbidden)
    asked = gevent.spawn(NativeThreads(1, niceness=7).apply, lambda: "done")
    assert asked.get(timeout=10) == "done"


def held_up(threads: NativeThreads, gate: object, owner: str, count: int) -> list[gevent.Greenlet]:
    """Jobs of one owner that last until the gate is opened; each opens it for the next."""

    def work() -> str:
        gate.acquire()
        gate.release()
        return owner

    jobs = [gevent.spawn(threads.apply, work, owner) for _ in range(count)]
    gevent.sleep(0)
    return jobs


def test_owners_take_turns_however_many_jobs_one_has() -> None:
    threads, gate, order = NativeThreads(1), native_lock(), []
    gate.acquire()
    greedy = held_up(threads, gate, "greedy", 1)
    later = [
        gevent.spawn(threads.apply, lambda name=name: order.append(name), name)
        for name in ["greedy"] * 5 + ["modest"] * 2
    ]
    gevent.sleep(0)
    gate.release()
    gevent.joinall([*greedy, *later], timeout=10, raise_error=True)
    assert order == ["greedy", "modest", "greedy", "modest", "greedy", "greedy", "greedy"]


def test_one_owner_never_has_all_threads() -> None:
    threads, gate = NativeThreads(4, most_each=2), native_lock()
    gate.acquire()
    greedy = held_up(threads, gate, "greedy", 8)
    other = gevent.spawn(threads.apply, lambda: "done", "modest")
    assert other.get(timeout=10) == "done"
    gate.release()
    gevent.joinall(greedy, timeout=10, raise_error=True)


def test_a_job_that_is_not_begun_in_time_is_told_to_come_back() -> None:
    threads, gate = NativeThreads(1, patience_s=0.05), native_lock()
    gate.acquire()
    running = held_up(threads, gate, "a", 1)
    late = gevent.spawn(threads.apply, lambda: "never", "b")
    with pytest.raises(Unavailable):
        late.get(timeout=10)
    gate.release()
    assert running[0].get(timeout=10) == "a"  # what has begun has all the time it needs
    assert threads.apply(lambda: "again", "b") == "again"


def test_checking_uploads_takes_no_thread_of_transfers() -> None:
    pools, gate = ThreadPools(quick_threads=1, transfer_threads=1), native_lock()
    gate.acquire()

    def upload(owner: str) -> object:
        with pools.admission(owner):
            return pools.run(lambda: gate.acquire() and gate.release())

    uploads = [gevent.spawn(upload, name) for name in ("a", "a", "b", "c")]
    gevent.sleep(0)
    with pools.transfer("d"):
        assert pools.run(lambda: "sent") == "sent"
    gate.release()
    gevent.joinall(uploads, timeout=10, raise_error=True)


def test_a_user_with_many_large_messages_leaves_threads_to_others() -> None:
    pools, gate = ThreadPools(quick_threads=4, transfer_threads=1), native_lock()
    gate.acquire()

    def message(owner: str, work: Callable[[], object]) -> object:
        pools.serve(owner)
        return pools.run(work)

    greedy = [gevent.spawn(message, "greedy", lambda: gate.acquire() and gate.release()) for _ in range(9)]
    gevent.sleep(0)
    assert gevent.spawn(message, "modest", lambda: "done").get(timeout=10) == "done"
    assert pools.run(lambda: "login") == "login"
    gate.release()
    gevent.joinall(greedy, timeout=10, raise_error=True)
