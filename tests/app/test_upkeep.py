"""Upkeep beside the requests: what is due, the daily turn, and what is left after a failure."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from filelock import FileLock

from app.locks import KeyedLocks
from app.upkeep import DailyTurn, DueQueue, Housekeeper, Summary, Upkeep
from storage.database.limits import Limits
from storage.database.store import Commit, DatabaseStore
from storage.errors import Corrupt, HeadMoved
from storage.heads.memory import MemoryHeadStore
from storage.media.blobs import Blobs, Digester, NewBlob
from storage.media.index import FileFacts, MediaIndex, create_empty
from storage.objects.memory import MemoryObjectStore
from storage.types import DatabaseId, DatabaseKind, UserId, run_here

ANN = DatabaseId(UserId("ann"), DatabaseKind.MEDIA)
BOB = DatabaseId(UserId("bob"), DatabaseKind.MEDIA)
DAY_MS = 24 * 3600 * 1000


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000

    def __call__(self) -> int:
        self.now_ms += 1
        return self.now_ms


class World:
    """Media databases of two users, whose chains are due after three commits."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.folder = folder
        self.scratch = folder / "spool"
        self.scratch.mkdir()
        self.heads = MemoryHeadStore()
        self.objects = MemoryObjectStore(self.clock)
        self.due: list[DatabaseId] = []
        self.numbers = itertools.count()
        limits = Limits(merge_deltas=3, snapshot_percent=1_000_000, sweep_grace_ms=1000, history_ms=DAY_MS)
        self.databases = DatabaseStore(
            self.heads,
            self.objects,
            folder / "cache",
            offload=run_here,
            clock_ms=self.clock,
            nonce=self.nonce,
            configure=lambda connection: None,
            limits=limits,
            due=self.due.append,
        )
        self.blobs = Blobs(self.objects, clock_ms=self.clock, fresh_ms=500)
        self.upkeep = Upkeep(
            self.databases,
            self.heads,
            self.objects,
            clock_ms=self.clock,
            offload=run_here,
            scratch=self.scratch,
            locks=KeyedLocks(threading.RLock),
            limits=limits,
        )

    def nonce(self) -> str:
        return f"n{next(self.numbers)}"

    def add(self, database: DatabaseId, name: str, content: bytes) -> None:
        """Keep a file, in a commit of its own."""
        digester = Digester()
        digester.update(content)
        self.blobs.put_new([NewBlob(digester.facts().sha256, content)])
        self.change(database, [(name, digester.facts())])

    def change(self, database: DatabaseId, changes: list[tuple[str, FileFacts | None]]) -> None:
        head = self.databases.head(database)
        if head.version == 0:
            path = self.folder / self.nonce()
            create_empty(path)
            with contextlib.closing(apsw.Connection(str(path))) as connection:
                MediaIndex(connection).apply(many_files(), 1)
            head = self.databases.replace(database, head, path, self.commit())
        checkout = self.databases.checkout(database, head)
        checkout.begin()
        MediaIndex(checkout.connection).apply(changes, self.clock() // 1000)
        self.databases.commit(checkout, head, self.commit())
        self.databases.release(checkout)

    def commit(self) -> Commit:
        return Commit(self.nonce(), b"", self.clock(), {}, None)

    def keys(self, prefix: str) -> list[str]:
        return [stat.key for stat in self.objects.list(prefix)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.databases.close()


def test_a_commit_tells_when_its_chain_has_become_long(world: World) -> None:
    for number in range(3):
        assert world.due == []
        world.add(ANN, f"{number}", b"x")
    assert world.due == [ANN]


def test_compaction_makes_a_due_chain_short(world: World) -> None:
    for number in range(3):
        world.add(ANN, f"{number}", b"x")
    assert world.upkeep.compact(ANN)
    assert len(world.databases.head(ANN).chain) == 2
    assert not world.upkeep.compact(ANN)


def test_a_compaction_that_loses_to_a_commit_is_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.databases, "compact", raising(HeadMoved("x")))
    assert not world.upkeep.compact(ANN)


def test_a_run_compacts_and_then_deletes_what_is_out_of_history(world: World) -> None:
    for number in range(3):
        world.add(ANN, f"{number}", b"%d" % number)
    world.add(BOB, "b", b"kept")
    assert world.upkeep.run().compacted == 1
    before = len(world.keys("v1/"))
    world.clock.now_ms += 2 * DAY_MS
    summary = world.upkeep.run()
    assert (summary.databases, summary.failed) == (2, 0)
    assert summary.deleted == before - len(world.keys("v1/")) > 0
    assert len(world.keys("blobs/")) == 4


def test_a_run_deletes_contents_that_nobody_has_any_more(world: World) -> None:
    world.add(ANN, "a", b"gone")
    world.add(BOB, "b", b"kept")
    world.change(ANN, [("a", None)])
    world.upkeep.run()
    assert len(world.keys("blobs/")) == 2
    world.clock.now_ms += 4 * DAY_MS
    world.upkeep.run()
    assert len(world.keys("blobs/")) == 1


def test_a_database_that_fails_stops_neither_the_others_nor_deletes_contents(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(ANN, "a", b"gone")
    world.change(ANN, [("a", None)])
    world.add(BOB, "b", b"kept")
    world.clock.now_ms += 4 * DAY_MS
    sweep = world.databases.sweep
    failing = raising(Corrupt("k", 1, 2))
    monkeypatch.setattr(world.databases, "sweep", lambda d: failing() if d == BOB else sweep(d))
    summary = world.upkeep.run()
    assert (summary.databases, summary.failed) == (2, 1)
    assert len(world.keys("blobs/")) == 2


def test_a_run_clears_what_dead_requests_left(world: World) -> None:
    old, young = world.scratch / "old.body", world.scratch / "young.body"
    for path, age_ms in ((old, 2 * DAY_MS), (young, 1000)):
        path.touch()
        time_s = (world.clock.now_ms - age_ms) / 1000
        os.utime(path, (time_s, time_s))
    world.upkeep.run()
    assert (old.exists(), young.exists()) == (False, True)


def test_the_queue_gives_each_database_once_and_in_order() -> None:
    queue = DueQueue()
    for database in (BOB, ANN, BOB):
        queue.add(database)
    queue.settle()
    assert [queue.take(), queue.take(), queue.take()] == [BOB, ANN, None]


def test_the_queue_keeps_back_what_has_not_come_to_rest() -> None:
    queue = DueQueue()
    queue.add(ANN)
    queue.add(BOB)
    assert queue.take() is None
    queue.settle()
    queue.add(ANN)
    assert [queue.take(), queue.take()] == [BOB, None]
    queue.settle()
    assert [queue.take(), queue.take()] == [ANN, None]


class TestDailyTurn:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def turn(self, tmp_path: Path, clock: Clock) -> DailyTurn:
        return DailyTurn(tmp_path, clock)

    def test_the_first_run_comes_after_a_day(self, turn: DailyTurn, clock: Clock) -> None:
        assert turn.take(Summary) is None
        clock.now_ms += DAY_MS
        assert turn.take(Summary) == Summary()

    def test_of_all_workers_one_runs_it(self, turn: DailyTurn, clock: Clock, tmp_path: Path) -> None:
        turn.take(Summary)
        clock.now_ms += DAY_MS
        assert turn.take(Summary) == Summary()
        assert DailyTurn(tmp_path, clock).take(Summary) is None

    def test_nobody_waits_for_a_run(self, turn: DailyTurn, clock: Clock, tmp_path: Path) -> None:
        turn.take(Summary)
        clock.now_ms += DAY_MS
        with FileLock(tmp_path / "upkeep.lock"):
            assert turn.take(Summary) is None


def test_a_housekeeper_goes_on_after_a_failure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = DueQueue()
    queue.add(ANN)
    queue.add(BOB)
    asked: list[DatabaseId] = []

    def compact(database: DatabaseId) -> bool:
        asked.append(database)
        raise OSError("the disk is away")

    monkeypatch.setattr(world.databases, "compact", compact)
    rests = iter((None, None))
    keeper = Housekeeper(
        world.upkeep, queue, sleep=lambda _: next(rests), turn=DailyTurn(world.folder, world.clock)
    )
    with pytest.raises(StopIteration):
        keeper.keep_house()
    assert asked == [ANN, BOB]


def test_the_index_of_a_user_is_read_while_no_request_is_at_it(world: World) -> None:
    world.add(ANN, "a", b"x")
    asked: list[DatabaseId] = []

    @contextlib.contextmanager
    def lock(database: DatabaseId) -> Iterator[None]:
        asked.append(database)
        yield

    world.upkeep._locks = lock
    world.upkeep.run()
    assert asked == [ANN]


def many_files() -> Iterator[tuple[str, FileFacts]]:
    """So many that a change of one is no change of most pages."""
    return ((f"filler {number}", FileFacts(bytes(20), bytes(32), 0, 1)) for number in range(1000))


def raising(error: Exception) -> Callable[..., bool]:
    def fail(*_args: object) -> bool:
        raise error

    return fail
