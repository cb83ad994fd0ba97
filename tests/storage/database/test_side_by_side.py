"""Several greenlets, threads and processes at once: nobody sees half a thing, nothing is lost."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gevent
import gevent.hub
import pytest

from storage.database.limits import Limits
from storage.errors import Conflict
from storage.heads.local import LocalHeadStore
from storage.objects.local import LocalObjectStore
from storage.types import DatabaseId, DatabaseKind, UserId, run_inline
from tests.support.databases import DATABASE, World, bytes_of, rows_of

ROOT = Path(__file__).parents[3]
SMALL = Limits(
    merge_deltas=3, chain_deltas=5, snapshot_percent=300, sweep_grace_ms=0, rebase_bytes=30_000, open_copies=2
)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path, limits=SMALL)
    yield world
    world.close()


def add_rows(world, store, database, numbers):
    """Commits each number, again and again until it is told done."""
    for number in numbers:
        while True:
            try:
                world.change(store, f"INSERT INTO t VALUES ({number}, x'')", database)
            except Conflict:
                continue
            break


def test_offloaded_work_may_move_between_threads(tmp_path):
    world = World(tmp_path, limits=SMALL)
    with ThreadPoolExecutor(3) as pool:
        store = world.worker(offload=lambda function: pool.submit(function).result())
        world.genesis(store)
        add_rows(world, store, DATABASE, range(5000, 5020))
        store.compact(DATABASE)
        assert len(rows_of(store)) == 2020
        world.close()


def test_greenlets_work_on_their_databases_at_once(tmp_path):
    world = World(tmp_path, limits=SMALL)
    pool = gevent.hub.get_hub().threadpool
    store = world.worker(offload=pool.apply)
    users = [DatabaseId(UserId(f"user{n}"), DatabaseKind.COLLECTION) for n in range(6)]

    def work(user):
        world.genesis(store, user, rows=200)
        for number in range(5000, 5012):
            add_rows(world, store, user, [number])
            store.compact(user)
            store.sweep(user)
        assert len(rows_of(store, user)) == 212

    gevent.joinall([gevent.spawn(work, user) for user in users], raise_error=True)
    fresh = world.fresh()
    assert all(len(rows_of(fresh, user)) == 212 for user in users)
    world.close()


def test_compaction_sweep_and_readers_beside_commits(world):
    """Grace 0 and no history: whatever may go, goes at once; readers of the current version never miss it."""
    shape = {"history_ms": 0}
    writer, keeper = world.worker("writer", **shape), world.worker("keeper", **shape)
    world.genesis(writer, rows=300)
    over, faults = threading.Event(), []

    def keep():
        while not over.is_set():
            keeper.compact(DATABASE)
            keeper.sweep(DATABASE)

    def read(seed):
        chance = random.Random(seed)
        reader = world.worker(f"reader-{seed}", **shape)
        while not over.is_set():
            if chance.random() < 0.3:
                reader = world.fresh(**shape)
            try:
                rows = rows_of(reader)
            except Conflict:
                continue
            if sorted(n for n in rows if n >= 5000) != list(range(5000, 5000 + len(rows) - 300)):
                faults.append(sorted(rows))

    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(keep), pool.submit(read, 1), pool.submit(read, 2)]
        try:
            add_rows(world, writer, DATABASE, range(5000, 5060))
        finally:
            over.set()
        for job in jobs:
            job.result(30)
    assert faults == []
    assert len(rows_of(world.fresh(**shape))) == 360
    assert writer.doctor(DATABASE).faults == ()


def run_process(root: str, first: int, count: int) -> None:
    """One of several worker processes: they share the stores and the local folder."""
    heads = LocalHeadStore(Path(root) / "heads.db", run_inline)
    world = World(
        Path(root), heads=heads, objects=LocalObjectStore(Path(root) / "store", run_inline), limits=SMALL
    )
    world._numbers = iter(range(first * 1_000_000, first * 1_000_000 + 999_999))
    store = world.worker()
    for number in range(first, first + count):
        add_rows(world, store, DATABASE, [number])
        if number % 4 == 0:
            store.compact(DATABASE)
        if number % 7 == 0:
            store.sweep(DATABASE, world.now_ms)
    store.close()


def test_processes_share_folder_and_database(tmp_path):
    heads = LocalHeadStore(tmp_path / "heads.db", run_inline)
    world = World(
        tmp_path, heads=heads, objects=LocalObjectStore(tmp_path / "store", run_inline), limits=SMALL
    )
    store = world.worker()
    world.genesis(store, rows=100)
    code = "import sys; from tests.storage.database import test_side_by_side as t;"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"{code} t.run_process({str(tmp_path)!r}, {first}, 15)"], cwd=ROOT
        )
        for first in (1000, 2000, 3000)
    ]
    assert [process.wait(100) for process in processes] == [0, 0, 0]
    expected = {*range(100), *range(1000, 1015), *range(2000, 2015), *range(3000, 3015)}
    assert set(rows_of(store)) == expected
    assert bytes_of(store) == bytes_of(world.fresh())
    assert [point.version for point in store.history(DATABASE)] == list(range(1, 47))
    assert store.doctor(DATABASE).faults == ()
    world.close()
