"""Puts that wait at the same time share a call: none is lost, none returns before it is stored."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.errors import Unavailable
from storage.objects.batching import GroupCommit
from storage.objects.memory import MemoryObjectStore


class HeldStore(MemoryObjectStore):
    """Notes each call, and holds up the first until it is let go."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.failures = []
        self.is_held, self.may_go = threading.Event(), threading.Event()

    def put_many(self, items):
        items = list(items)
        self.calls.append([key for key, _ in items])
        if not self.is_held.is_set():
            self.is_held.set()
            assert self.may_go.wait(30)
        if self.failures:
            raise self.failures.pop()
        super().put_many(items)


def put_all(store, contents, *, failures=()):
    """One put that is held up, and all others while it is; what each of them raised, or None."""
    put = GroupCommit(store)
    with ThreadPoolExecutor(len(contents)) as threads:
        (first, *others) = contents.items()
        puts = [threads.submit(put, *first)]
        assert store.is_held.wait(30)
        puts += [threads.submit(put, *other) for other in others]
        while len(put._waiting) < len(others):
            time.sleep(0.001)
        store.failures = [*failures]
        store.may_go.set()
        return [one.exception() for one in puts]


def test_what_comes_during_a_call_shares_the_next():
    store, contents = HeldStore(), {f"a/{number}": b"x" * number for number in range(6)}
    assert put_all(store, contents) == [None] * 6
    assert [len(keys) for keys in store.calls] == [1, 5]
    assert {key: store.read(key) for key in contents} == contents


def test_large_ones_are_not_held_up_to_go_together():
    store, contents = HeldStore(), {f"a/{number}": b"x" * 600_000 for number in range(4)}
    assert put_all(store, contents) == [None] * 4
    assert [len(keys) for keys in store.calls] == [1, 1, 1, 1]
    assert all(store.read(key) == content for key, content in contents.items())


def test_a_failure_is_that_of_all_who_shared_it():
    store, contents = HeldStore(), {f"a/{number}": b"x" for number in range(4)}
    errors = put_all(store, contents, failures=[Unavailable("full"), Unavailable("full")])
    assert [type(error) for error in errors] == [Unavailable] * 4
    assert [len(keys) for keys in store.calls] == [1, 3]
    assert not any(store.find(key) for key in contents)


def test_when_one_is_ended_the_others_try_again():
    store, contents = HeldStore(), {f"a/{number}": b"x" for number in range(4)}
    errors = put_all(store, contents, failures=[SystemExit()])
    assert [type(error) for error in errors].count(SystemExit) == 1
    assert sum(store.find(key) is not None for key in contents) == 3


def test_a_put_alone_raises_what_the_store_raises():
    store = HeldStore()
    store.may_go.set()
    store.failures = [Unavailable("away")]
    with pytest.raises(Unavailable, match="away"):
        GroupCommit(store)("a/1", b"x")
