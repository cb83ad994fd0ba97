"""Jobs run two at a time, and the first failure is the caller's."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from storage.threads import run_in_two_threads


def test_all_jobs_are_done():
    done = []
    run_in_two_threads([lambda at=at: done.append(at) for at in range(20)])
    assert sorted(done) == list(range(20))


def test_nothing_to_do_is_fine():
    run_in_two_threads([])


def test_two_jobs_run_at_a_time():
    meet = threading.Barrier(2, timeout=10)
    run_in_two_threads([meet.wait, meet.wait])


def test_a_failure_is_raised_and_no_further_job_begun():
    done = []

    def fail():
        raise ValueError("no")

    def wait_for_failure():
        pass

    with pytest.raises(ValueError, match="no"):
        run_in_two_threads([fail, fail, *[lambda: done.append(1)] * 1000])
    assert len(done) < 1000


def test_the_threads_are_real_also_under_gevent():
    program = """
from gevent import monkey; monkey.patch_all()
import gevent, _thread
from storage.threads import run_in_two_threads
both = []
lock = monkey.get_original("_thread", "allocate_lock")
first, second = lock(), lock()
first.acquire(); second.acquire()
def one(): first.release(); assert second.acquire(True, 10)
def two(): second.release(); assert first.acquire(True, 10)
gevent.get_hub().threadpool.apply(run_in_two_threads, ([one, two],))
print("met")
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.stdout == "met\n", ran.stderr
