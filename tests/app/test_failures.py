"""Failures on their way to the store: none holds up a request, and a flood of them is cut."""

from __future__ import annotations

import pytest

from app.failures import FailureLog
from storage.database.failures import Failure, list_failures
from storage.errors import Unavailable
from storage.objects.memory import MemoryObjectStore
from tests.support.records import collection_of, media_of

HOUR_MS = 3_600_000
JOE, ANN = collection_of("joe"), collection_of("ann")


class Away(MemoryObjectStore):
    """A store that is away for some puts."""

    def __init__(self) -> None:
        super().__init__(lambda: 0)
        self.away = 0

    def put(self, key, content):
        if self.away:
            self.away -= 1
            raise Unavailable("away")
        super().put(key, content)


class World:
    def __init__(self) -> None:
        self.objects = Away()
        self.started: list = []
        self.slept: list[float] = []
        names = iter(range(10_000))
        self.log = FailureLog(
            self.objects,
            nonce=lambda: f"{next(names):016x}",
            start_thread=self.started.append,
            sleep=self.slept.append,
        )

    def go_on(self) -> None:
        while self.started:
            self.started.pop()()

    def kept(self, database=JOE):
        return [failure.text for failure in list_failures(self.objects, database)]


@pytest.fixture
def world():
    return World()


def failure(text, time_ms=HOUR_MS):
    return Failure(time_ms, "finish", "ab" * 6, "client", 409, "SessionConflict", text)


def test_a_failure_is_read_as_it_was_noted(world):
    world.log.note(JOE, failure("why"))
    world.go_on()
    assert list(list_failures(world.objects, JOE)) == [failure("why")]
    assert world.kept(media_of("joe")) == []


def test_noting_waits_for_no_store(world):
    world.log.note(JOE, failure("1"))
    world.log.note(JOE, failure("2"))
    assert world.kept() == []
    assert len(world.started) == 1
    world.go_on()
    assert world.kept() == ["1", "2"]


def test_a_store_that_is_away_for_a_while_gets_them_later(world):
    world.objects.away = 5
    world.log.note(JOE, failure("1"))
    world.log.note(JOE, failure("2", 2 * HOUR_MS))
    world.go_on()
    assert world.kept() == ["1", "2"]
    assert len(world.slept) == 5


def test_a_store_that_stays_away_is_given_up_and_later_failures_are_kept(world):
    world.objects.away = 1_000_000
    world.log.note(JOE, failure("lost"))
    world.go_on()
    world.objects.away = 0
    world.log.note(JOE, failure("kept"))
    world.go_on()
    assert world.kept() == ["kept"]


def test_a_user_who_fails_all_the_time_fills_no_store_and_keeps_nobody_out(world):
    for number in range(500):
        world.log.note(JOE, failure(str(number)))
    world.log.note(ANN, failure("hers"))
    world.log.note(JOE, failure("an hour later", 2 * HOUR_MS))
    world.go_on()
    assert world.kept() == [*map(str, range(20)), "an hour later"]
    assert world.kept(ANN) == ["hers"]


def test_a_long_text_is_cut(world):
    world.log.note(JOE, failure("x" * 100_000))
    world.go_on()
    assert len(world.kept()[0]) < 1000


def test_a_damaged_record_hides_no_other(world):
    for text in ("1", "2", "3"):
        world.log.note(JOE, failure(text, HOUR_MS * int(text)))
    world.go_on()
    second = [stat.key for stat in world.objects.list("v1/joe/collection/f/")][1]
    world.objects.delete([second])
    world.objects.put(second, b"junk")
    assert world.kept() == ["1", "3"]
