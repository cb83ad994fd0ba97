"""Which login is verified next when many wait."""

from __future__ import annotations

import threading

import pytest

from app.auth.login_queue import LoginQueue
from app.errors import ServiceUnavailable
from tests.support.waiting import wait_until


class Callers:
    """Callers that come one after the other while the only place is taken, and say when it is theirs."""

    def __init__(self, turns: LoginQueue) -> None:
        self.turns = turns
        self.served: list[str] = []
        self.threads: list[threading.Thread] = []
        self.may_leave = threading.Event()
        self._start("first", ("first",))
        wait_until(lambda: self.served)

    def come(self, name: str, *groups: str) -> None:
        before = len(self.turns._waiting)
        self._start(name, groups or (name,))
        wait_until(lambda: len(self.turns._waiting) > before)

    def finish(self) -> list[str]:
        self.may_leave.set()
        for thread in self.threads:
            thread.join(10)
        return self.served[1:]

    def _start(self, name: str, groups: tuple[str, ...]) -> None:
        def call() -> None:
            with self.turns.place(groups):
                self.served.append(name)
                self.may_leave.wait(10)

        self.threads.append(threading.Thread(target=call))
        self.threads[-1].start()


def test_who_comes_for_a_name_that_many_ask_for_waits_behind_the_others():
    callers = Callers(LoginQueue(1, wait_s=10, clock_s=lambda: 0.0))
    for number in range(20):
        callers.come(f"guess{number}", "name a", f"network {number}")
    callers.come("owner", "name b", "network x")
    assert callers.finish()[0] == "owner"


def test_the_owner_of_a_name_under_attack_goes_before_networks_that_came_already():
    turns = LoginQueue(1, wait_s=10, clock_s=lambda: 0.0)
    for number in range(20):
        with turns.place(("name a", f"network {number % 4}")):
            pass
    callers = Callers(turns)
    for number in range(20):
        callers.come(f"guess{number}", "name a", f"network {number % 4}")
    callers.come("owner", "name a", "network x")
    assert callers.finish()[0] == "owner"


def test_equal_callers_are_served_as_they_came():
    callers = Callers(LoginQueue(1, wait_s=10))
    for name in "abcde":
        callers.come(name)
    assert callers.finish() == list("abcde")


def test_arrivals_are_forgotten_in_time():
    now_s = 0.0
    turns = LoginQueue(1, wait_s=10, clock_s=lambda: now_s)
    for _ in range(10):
        with turns.place(("a",)):
            pass
    now_s = 60.0
    callers = Callers(turns)
    callers.come("a")
    callers.come("b")
    assert callers.finish() == ["a", "b"]


def test_who_waits_too_long_is_told_to_come_again_and_takes_no_place():
    turns = LoginQueue(1, wait_s=0)
    with turns.place(("a",)):
        for _ in range(3):
            with pytest.raises(ServiceUnavailable), turns.place(("b",)):
                pass
    with turns.place(("c",)):
        pass
    assert turns._free == 1


def test_no_more_are_let_in_at_once_than_allowed():
    turns = LoginQueue(2, wait_s=10)
    running, most, lock, meeting = 0, 0, threading.Lock(), threading.Barrier(2, timeout=10)

    def call() -> None:
        nonlocal running, most
        with turns.place(("a",)):
            with lock:
                running += 1
                most = max(most, running)
            meeting.wait()
            with lock:
                running -= 1

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2


def test_a_failure_gives_the_place_back():
    turns = LoginQueue(1, wait_s=0)
    with pytest.raises(KeyError), turns.place(("a",)):
        raise KeyError
    with turns.place(("a",)):
        pass


def test_what_is_remembered_of_arrivals_is_bounded():
    turns = LoginQueue(1, clock_s=lambda: 0.0)
    for number in range(50_000):
        with turns.place((number,)):
            pass
    assert len(turns._forgotten_s) <= 20_000
