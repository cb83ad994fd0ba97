"""Locks by key: alone with one, free of the others, nothing kept."""

from __future__ import annotations

import threading

import pytest

from app.locks import KeyedLocks


def test_two_guests_of_a_key_take_turns_and_others_do_not_wait() -> None:
    locks = KeyedLocks(threading.Lock)
    order: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with locks("a"):
            inside.set()
            leave.wait(10)
            order.append("first")

    def second() -> None:
        with locks("a"):
            order.append("second")

    threads = [threading.Thread(target=first)]
    threads[0].start()
    inside.wait(10)
    threads.append(threading.Thread(target=second))
    threads[1].start()
    with locks("b"):
        order.append("other")
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["other", "first", "second"]


def test_nothing_is_kept_when_nobody_is_inside() -> None:
    locks = KeyedLocks(threading.Lock)
    with locks("a"), locks("b"):
        pass
    with pytest.raises(KeyError), locks("c"):
        raise KeyError
    assert locks._shared == {}
