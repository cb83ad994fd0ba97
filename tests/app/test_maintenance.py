"""Maintenance beside the requests: what is due, the daily turn, and what is left after a failure."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from filelock import FileLock
from msgspec.structs import replace

from app.locks import KeyedLocks
from app.maintenance import Maintenance, Shard, Summary
from app.maintenance_loop import CompactionQueue, Daily, MaintenanceLoop
from storage.database.limits import Limits
from storage.database.maintenance.runs import RunLog
from storage.database.store import Commit
from storage.errors import Corrupt, HeadMoved, Unavailable
from storage.heads.memory import MemoryHeadStore
from storage.media.blobs import Blobs, Digester, NewBlob, key_of
from storage.media.index import FileFacts, MediaIndex, create_empty
from storage.objects.memory import MemoryObjectStore
from storage.types import DatabaseId, DatabaseKind, Head, UserId, run_inline
from tests.bench import maintain
from tests.support.clock import Clock as StillClock
from tests.support.databases import make_store
from tests.support.faults import Faults

ANN = DatabaseId(UserId("ann"), DatabaseKind.MEDIA)
BOB = DatabaseId(UserId("bob"), DatabaseKind.MEDIA)
DAY_MS = 24 * 3600 * 1000


class Clock(StillClock):
    """Every look at it takes a millisecond."""

    def __init__(self) -> None:
        super().__init__(1_800_000_000_000)

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
        self.earlier: dict[DatabaseId, Head] = {}
        self.numbers = itertools.count()
        limits = Limits(merge_deltas=3, snapshot_percent=1_000_000, sweep_grace_ms=1000, history_ms=DAY_MS)
        self.databases = make_store(
            self.heads,
            self.objects,
            folder / "cache",
            self.clock,
            self.nonce,
            limits=limits,
            due=self.due.append,
        )
        self.blobs = Blobs(self.objects, fresh_ms=500)
        self.maintenance = Maintenance(
            self.databases,
            self.heads,
            self.objects,
            clock_ms=self.clock,
            nonce=self.nonce,
            offload=run_inline,
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
            with contextlib.closing(apsw.Connection(str(path))) as connection, connection:
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
    assert world.maintenance.compact(ANN)
    assert len(world.databases.head(ANN).chain) == 2
    assert not world.maintenance.compact(ANN)


def test_a_compaction_that_loses_to_a_commit_is_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.databases, "compact", raising(HeadMoved("x")))
    assert not world.maintenance.compact(ANN)


def test_a_run_compacts_and_then_deletes_what_is_out_of_history(world: World) -> None:
    for number in range(3):
        world.add(ANN, f"{number}", b"%d" % number)
    world.add(BOB, "b", b"kept")
    assert world.maintenance.run(is_full=True).compacted == 1
    before = len(world.keys("v1/"))
    world.clock.now_ms += 2 * DAY_MS
    summary = world.maintenance.run(is_full=True)
    assert (summary.databases, summary.failed) == (2, 0)
    assert summary.deleted == before - len(world.keys("v1/")) > 0
    assert len(world.keys("blobs/")) == 4


def test_a_run_deletes_contents_that_nobody_has_any_more(world: World) -> None:
    world.add(ANN, "a", b"gone")
    world.add(BOB, "b", b"kept")
    world.change(ANN, [("a", None)])
    world.maintenance.run(is_full=True)
    assert len(world.keys("blobs/")) == 2
    world.clock.now_ms += 4 * DAY_MS
    world.maintenance.run(is_full=True)
    assert len(world.keys("blobs/")) == 1


def test_a_database_that_fails_is_counted_and_the_others_are_done(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(ANN, "a", b"gone")
    world.change(ANN, [("a", None)])
    world.add(BOB, "b", b"kept")
    world.clock.now_ms += 4 * DAY_MS
    failing_for(monkeypatch, world, "sweep", BOB, Corrupt("k", 1, 2))
    summary = world.maintenance.run(is_full=True)
    assert (summary.databases, summary.failed) == (2, 1)
    assert world.keys("blobs/") == [key_of(hashlib.sha256(b"kept").digest())]


def test_what_an_unreadable_index_may_name_stays_and_other_garbage_goes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(ANN, "a", b"gone")
    world.change(ANN, [("a", None)])
    world.clock.now_ms += 10 * DAY_MS
    world.add(BOB, "b", b"named by the version that can be read")
    world.add(BOB, "c", b"named by the one that cannot")
    world.clock.now_ms += 10 * DAY_MS
    failing_for(monkeypatch, world, "checkout", BOB, Corrupt("k", 1, 2))
    summary = world.maintenance.run(is_full=True)
    assert summary.failed == 1
    assert len(world.keys("blobs/")) == 2


def test_a_head_record_that_cannot_be_read_keeps_what_its_history_may_name_and_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(ANN, "a", b"gone")
    world.change(ANN, [("a", None)])
    world.clock.now_ms += 10 * DAY_MS
    world.add(BOB, "b", b"named in the history")
    for number in range(3):
        world.add(BOB, f"{number}", b"%d" % number)
    assert world.maintenance.compact(BOB)
    world.clock.now_ms += 10 * DAY_MS
    find = world.heads.find

    def damaged(database: DatabaseId) -> Head | None:
        if database == BOB:
            raise Corrupt("bob", "a head record", "noise")
        return find(database)

    monkeypatch.setattr(world.heads, "find", damaged)
    assert world.maintenance.run(is_full=True).failed == 2
    assert len(world.keys("blobs/")) == 4


def test_nothing_is_deleted_where_no_version_of_an_index_can_be_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(ANN, "a", b"gone")
    world.change(ANN, [("a", None)])
    world.add(BOB, "b", b"kept")
    world.clock.now_ms += 10 * DAY_MS
    failing_for(monkeypatch, world, "checkout", BOB, Corrupt("k", 1, 2))
    monkeypatch.setattr(world.databases, "checkout_restore_point", raising(Corrupt("k", 1, 2)))
    summary = world.maintenance.run(is_full=True)
    assert "contents of media were not swept" in summary.refused[0]
    assert len(world.keys("blobs/")) == 2


def test_a_machine_whose_clock_is_ahead_of_the_stores_deletes_nothing(world: World) -> None:
    for number in range(3):
        world.add(ANN, f"{number}", b"%d" % number)
    world.change(ANN, [("0", None)])
    before = world.keys("")
    world.maintenance._clock_ms = lambda: world.clock() + 40 * DAY_MS
    summary = world.maintenance.run(is_full=True)
    assert "57599 minutes ahead of the store's" in summary.refused[0] or "57600" in summary.refused[0]
    assert summary.deleted == 0
    assert set(before) <= set(world.keys(""))
    assert summary.compacted == 1


def test_a_clock_that_jumps_deletes_nothing_at_first(world: World) -> None:
    world.add(ANN, "a", b"gone")
    world.change(ANN, [("a", None)])
    world.maintenance.run(is_full=True)
    world.clock.now_ms += 40 * DAY_MS
    first = world.maintenance.run(is_full=True)
    assert (first.deleted, len(first.refused)) == (0, 1)
    assert "39 days have passed" in first.refused[0] or "40 days have passed" in first.refused[0]
    world.clock.now_ms += DAY_MS
    assert world.maintenance.run(is_full=True).deleted > 0


class TestLostHeads:
    """Objects that are still there, and head records that are not, or not any more."""

    @pytest.fixture
    def world(self, world: World) -> World:
        for database in (ANN, BOB):
            world.add(database, "a", b"of " + database.user.encode())
        world.maintenance.run(is_full=True)
        world.earlier = dict(world.heads._heads)
        world.clock.now_ms += DAY_MS
        world.add(BOB, "b", b"newer")
        world.maintenance.run()
        world.clock.now_ms += 8 * DAY_MS
        return world

    def assert_refused(self, world: World, reason: str) -> None:
        before = world.keys("blobs/") + world.keys("v1/")
        summary = world.maintenance.run(is_full=True)
        assert reason in summary.refused[0]
        assert summary.deleted == 0
        assert world.keys("blobs/") + world.keys("v1/") == before

    def test_where_all_are_gone_nothing_is_deleted(self, world: World) -> None:
        world.heads._heads.clear()
        self.assert_refused(world, "missing or empty beside the stored objects")

    def test_where_all_are_of_an_earlier_moment_nothing_is_deleted(self, world: World) -> None:
        world.heads._heads = world.earlier
        self.assert_refused(world, "of an earlier moment than the stored objects")

    def test_the_operator_can_accept_the_loss(self, world: World) -> None:
        world.heads._heads = world.earlier
        summary = world.maintenance.run(is_full=True, accept_loss=True)
        assert summary.refused == []
        assert len(world.keys("blobs/")) == 2
        assert world.maintenance.run(is_full=True).refused == []

    def test_where_the_objects_are_of_an_earlier_moment_it_is_said(self, world: World) -> None:
        for _ in range(70):
            world.maintenance._mark.advance(world.clock())
        world.objects.delete(world.keys("upkeep/heads/"))
        self.assert_refused(world, "the stored objects are missing beside the head records")

    def test_where_most_are_gone_nothing_is_deleted(self, world: World) -> None:
        run = RunLog(world.objects, world.nonce, 1, 1)
        run.write(replace(run.read(), databases=5))
        self.assert_refused(world, "only 2 databases have a head record, 5 had one")

    def test_where_one_is_gone_its_contents_stay(self, world: World) -> None:
        world.heads.delete(BOB)
        before = world.keys("blobs/")
        assert world.maintenance.run(is_full=True).failed > 0
        assert world.keys("blobs/") == before

    def test_where_one_is_of_an_earlier_moment_its_objects_and_contents_stay(self, world: World) -> None:
        world.add(BOB, "c", b"newest")
        world.heads._heads[BOB] = world.earlier[BOB]
        world.clock.now_ms += 3 * DAY_MS
        before = world.keys("blobs/"), world.keys("v1/bob/")
        assert world.maintenance.run(is_full=True).failed > 0
        assert (world.keys("blobs/"), world.keys("v1/bob/")) == before


class TestRuns:
    """Which databases a run takes."""

    @pytest.fixture
    def users(self, world: World) -> list[DatabaseId]:
        users = [DatabaseId(UserId(f"user{number}"), DatabaseKind.MEDIA) for number in range(6)]
        for user in users:
            world.add(user, "a", b"of " + user.user.encode())
        world.clock.now_ms += 2 * DAY_MS
        return users

    def touched(self, world: World, **options: Any) -> list[str]:
        """The users whose objects a run lists."""
        faults = Faults()
        databases = world.databases._sweeper
        databases._objects = faults.objects(world.objects)
        world.maintenance.run(**options)
        databases._objects = world.objects
        return [call.subject.split("/")[1] for call in faults.calls if call.method == "list"]

    def test_the_first_run_takes_all_and_the_next_one_what_has_changed_since(
        self, world: World, users: list[DatabaseId]
    ) -> None:
        assert len(self.touched(world)) == 6
        world.clock.now_ms += 3 * DAY_MS
        assert self.touched(world) == []
        world.clock.now_ms += DAY_MS
        world.add(users[3], "b", b"more")
        assert self.touched(world) == ["user3"]

    def test_a_full_run_comes_once_a_week(self, world: World, users: list[DatabaseId]) -> None:
        self.touched(world)
        world.clock.now_ms += 6 * DAY_MS
        assert self.touched(world) == []
        world.clock.now_ms += 2 * DAY_MS
        assert len(self.touched(world)) == 6

    def test_shards_share_all_users(self, world: World, users: list[DatabaseId]) -> None:
        found = [self.touched(world, shard=Shard(number, 3)) for number in (1, 2, 3)]
        assert sorted(user for part in found for user in part) == [user.user for user in users]

    def test_a_run_that_is_broken_off_goes_on(
        self, world: World, users: list[DatabaseId], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.maintenance._AT_ONCE", 2)
        failing_for(monkeypatch, world, "sweep", users[4], KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            world.maintenance.run()
        monkeypatch.undo()
        assert self.touched(world) == ["user4", "user5"]

    def test_the_calls_of_a_run_follow_what_has_changed_and_not_how_many_users_there_are(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(maintain, "S3_S", 0)
        monkeypatch.setattr(maintain, "DYNAMODB_S", 0)
        calls = []
        for count in (5, 25):
            (tmp_path / str(count)).mkdir()
            store = maintain.Store(tmp_path / str(count), count)
            store.clock.behind_ms -= 3 * DAY_MS
            store.run("full run")
            store.clock.behind_ms -= 3 * DAY_MS
            for number in range(3):
                store.change(DatabaseId(UserId(f"user{number:06}"), DatabaseKind.MEDIA), number)
            store.run("3 users changed")
            calls.append(sum(store.calls.values()))
            store.databases.close()
            store.pool.shutdown()
        assert calls[0] == calls[1] < 40

    def test_what_failed_since_a_store_was_away_is_taken_again(
        self, world: World, users: list[DatabaseId], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.touched(world)
        world.clock.now_ms += 3 * DAY_MS
        world.add(users[2], "b", b"more")
        with monkeypatch.context() as patch:
            failing_for(patch, world, "sweep", users[2], Unavailable("throttled"))
            assert world.maintenance.run().failed == 1
        world.clock.now_ms += 3 * DAY_MS
        assert self.touched(world) == ["user2"]


def test_the_queue_gives_each_database_once_and_in_order() -> None:
    queue = CompactionQueue()
    for database in (BOB, ANN, BOB):
        queue.add(database)
    queue.age()
    assert [queue.take(), queue.take(), queue.take()] == [BOB, ANN, None]


def test_the_queue_keeps_back_what_has_not_come_to_rest() -> None:
    queue = CompactionQueue()
    queue.add(ANN)
    queue.add(BOB)
    assert queue.take() is None
    queue.age()
    queue.add(ANN)
    assert [queue.take(), queue.take()] == [BOB, None]
    queue.age()
    assert [queue.take(), queue.take()] == [ANN, None]


class TestDailyTurn:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def schedule(self, tmp_path: Path, clock: Clock) -> Daily:
        return Daily(tmp_path, clock)

    def test_the_first_run_comes_after_a_day(self, schedule: Daily, clock: Clock) -> None:
        assert schedule.take(Summary) is None
        clock.now_ms += DAY_MS
        assert schedule.take(Summary) == Summary()

    def test_of_all_workers_one_runs_it(self, schedule: Daily, clock: Clock, tmp_path: Path) -> None:
        schedule.take(Summary)
        clock.now_ms += DAY_MS
        assert schedule.take(Summary) == Summary()
        assert Daily(tmp_path, clock).take(Summary) is None

    def test_a_stamp_in_the_future_delays_a_run_by_a_day_at_most(
        self, schedule: Daily, clock: Clock, tmp_path: Path
    ) -> None:
        schedule.take(Summary)
        future_s = clock.now_ms / 1000 + 1_000_000_000
        os.utime(tmp_path / "upkeep.time", (future_s, future_s))
        assert schedule.take(Summary) is None
        clock.now_ms += DAY_MS
        assert schedule.take(Summary) == Summary()

    def test_nobody_waits_for_a_run(self, schedule: Daily, clock: Clock, tmp_path: Path) -> None:
        schedule.take(Summary)
        clock.now_ms += DAY_MS
        with FileLock(tmp_path / "upkeep.lock"):
            assert schedule.take(Summary) is None


def test_a_housekeeper_goes_on_after_a_failure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = CompactionQueue()
    queue.add(ANN)
    queue.add(BOB)
    asked: list[DatabaseId] = []

    def compact(database: DatabaseId) -> bool:
        asked.append(database)
        raise OSError("the disk is away")

    monkeypatch.setattr(world.databases, "compact", compact)
    rests = iter((None, None))
    keeper = MaintenanceLoop(
        world.maintenance,
        queue,
        sleep=lambda _: next(rests),
        schedule=Daily(world.folder, world.clock),
        monotonic_s=lambda: 0.0,
    )
    with pytest.raises(StopIteration):
        keeper.run_forever()
    assert asked == [ANN, BOB]


def test_the_index_of_a_user_is_read_while_no_request_is_at_it(world: World) -> None:
    world.add(ANN, "a", b"x")
    asked: list[DatabaseId] = []

    @contextlib.contextmanager
    def lock(database: DatabaseId) -> Iterator[None]:
        asked.append(database)
        yield

    world.maintenance._locks = lock
    world.maintenance.run(is_full=True)
    assert asked == [ANN]


def many_files() -> Iterator[tuple[str, FileFacts]]:
    """So many that a change of one is no change of most pages."""
    return ((f"filler {number}", FileFacts(bytes(20), bytes(32), 0, 1)) for number in range(1000))


def failing_for(
    monkeypatch: pytest.MonkeyPatch, world: World, method: str, failing: DatabaseId, error: BaseException
) -> None:
    """Let one method of the databases fail for one of them."""
    real = getattr(world.databases, method)

    def fail(database: DatabaseId, *args: object, **options: object) -> object:
        if database == failing:
            raise error
        return real(database, *args, **options)

    monkeypatch.setattr(world.databases, method, fail)


def raising(error: Exception) -> Callable[..., bool]:
    def fail(*_args: object) -> bool:
        raise error

    return fail
