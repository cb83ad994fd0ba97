"""Head records that are not to be believed are neither read nor written until they are."""

from __future__ import annotations

import pytest

from storage.errors import Unavailable
from storage.heads.guarded import GuardedHeadStore
from storage.heads.memory import MemoryHeadStore
from tests.support.records import collection_of, head_update_of


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_nothing_is_answered_or_written_until_the_fault_is_gone() -> None:
    clock, faults, inner = Clock(), ["heads.sqlite is lost"], MemoryHeadStore()
    heads = GuardedHeadStore(inner, lambda: faults[0] if faults else None, clock)
    find, ann = heads.find, collection_of("ann")
    for call in (lambda: find(ann), lambda: heads.advance_head(ann, head_update_of(0, 0)), heads.list):
        with pytest.raises(Unavailable, match=r"heads\.sqlite is lost"):
            call()
    assert inner.find(ann) is None
    faults.clear()
    with pytest.raises(Unavailable):
        find(ann)  # not asked again at once
    clock.now_s += 11
    assert find(ann) is None
    assert heads.advance_head(ann, head_update_of(0, 0)).version == 1


def test_a_store_that_cannot_be_looked_at_is_looked_at_again() -> None:
    clock, answers = Clock(), [Unavailable("the bucket is away"), None]

    def find_fault() -> str | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    heads = GuardedHeadStore(MemoryHeadStore(), find_fault, clock)
    with pytest.raises(Unavailable, match="the bucket is away"):
        heads.list()
    clock.now_s += 11
    assert list(heads.list()) == []
