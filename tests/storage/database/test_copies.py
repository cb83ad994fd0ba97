"""Copies that the processes of a host share: all see what one commits, and none trusts a copy in doubt."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from storage.heads.local import LocalHeadStore
from storage.objects.local import LocalObjectStore
from storage.types import DatabaseId, DatabaseKind, UserId, run_inline
from tests.support.databases import DATABASE, World, bytes_of, make_file, rows_of
from tests.support.faults import Faults

ROOT = Path(__file__).parents[3]


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


def copies(world, database=DATABASE):
    """The base links of a database's shared copies."""
    return sorted((world.root / "local" / "copies" / database.user / database.kind.value).glob("*.db"))


def lock_file(world):
    return world.root / "local" / "copies" / DATABASE.user / DATABASE.kind.value / "lock"


def test_a_second_request_for_a_database_works_on_a_private_copy(world):
    store = world.worker()
    head = world.genesis(store)
    first, second = store.checkout(DATABASE, head), store.checkout(DATABASE, head)
    assert first.path != second.path
    first.begin()
    first.connection.execute("DELETE FROM t WHERE id = 1")
    assert second.connection.execute("SELECT count() FROM t").get == 2000
    store.commit(first, head, world.commit())
    store.release(first)
    store.release(second)
    assert not second.path.exists()
    assert len(copies(world)) == 1
    assert len(rows_of(store)) == 1999


def test_a_copy_in_doubt_is_made_anew(world):
    """As a process leaves it that died between SQLite's COMMIT and the note of its version."""
    store = world.worker()
    head = world.genesis(store)
    checkout = store.checkout(DATABASE, head)
    checkout.begin()
    checkout.connection.execute("DELETE FROM t WHERE id = 1")
    checkout.before_commit()
    checkout.connection.execute("COMMIT")
    store.close()
    world.workers.clear()
    later = world.worker()
    assert 1 in rows_of(later)
    assert copies(world) != [checkout.path]
    world.change(later, "DELETE FROM t WHERE id = 2")
    assert bytes_of(later) == bytes_of(world.fresh())
    later.close()


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 200, random.Random(1).randbytes(100)])
def test_a_state_that_cannot_be_read_is_doubt(world, content):
    store = world.worker()
    head = world.genesis(store)
    rows_of(store)
    before = copies(world)
    lock_file(world).write_bytes(content)
    assert rows_of(store) == rows_of(world.fresh())
    assert copies(world) != before
    assert store.head(DATABASE) == head


def test_a_copy_whose_files_are_gone_is_made_anew(world):
    store = world.worker()
    world.genesis(store)
    world.change(store, "DELETE FROM t WHERE id = 1")
    store.close()
    world.workers.clear()
    for path in lock_file(world).parent.glob("*.db*"):
        path.unlink()
    assert 1 not in rows_of(world.worker())


def test_a_failed_change_leaves_the_copy_to_the_next(world):
    store = world.worker()
    head = world.genesis(store)
    checkout = store.checkout(DATABASE, head)
    checkout.begin()
    checkout.connection.execute("DELETE FROM t")
    store.release(checkout)
    assert len(rows_of(store)) == 2000
    assert len(copies(world)) == 1


def test_open_copies_are_bounded(world):
    store = world.worker(open_copies=2)
    users = [DatabaseId(UserId(f"user{n}"), DatabaseKind.COLLECTION) for n in range(5)]
    for user in users:
        world.genesis(store, user, rows=5)
        rows_of(store, user)
    assert len(store._copies._handles) == 2
    for user in users:
        assert len(rows_of(store, user)) == 5


def test_copies_used_the_longest_ago_are_removed_when_they_take_too_much_disk(world):
    store = world.worker(copy_bytes=100_000, open_copies=2)
    store._copies._made = 60
    users = [DatabaseId(UserId(f"user{n}"), DatabaseKind.COLLECTION) for n in range(8)]
    for user in users:
        world.genesis(store, user)
        world.change(store, "UPDATE t SET v = zeroblob(64) WHERE id % 90 = 5", user)
    present = [user.user for user in users if copies(world, user)]
    assert 0 < len(present) < 8
    assert "user7" in present
    for user in users:
        assert len(rows_of(store, user)) == 2000


def test_copies_of_an_earlier_boot_are_dropped(world):
    store = world.worker()
    world.genesis(store)
    rows_of(store)
    store.close()
    world.workers.clear()
    (world.root / "local" / "copies" / "~boot").write_text("another boot")
    later = world.worker()
    assert copies(world) == []
    assert len(rows_of(later)) == 2000


def test_a_copy_follows_what_other_hosts_have_committed(world):
    """Their pages are laid over it; nothing is opened again."""
    faults = Faults()
    here = world.worker(objects=faults.objects(world.objects))
    there = world.worker("there")
    world.genesis(there)
    rows_of(here)
    before = copies(world)
    for number in range(5):
        world.change(there, f"UPDATE t SET v = zeroblob(4000) WHERE id = {number}")
        assert rows_of(here) == rows_of(there)
        world.change(here, f"INSERT INTO t SELECT id + 100000 * {number + 1}, v FROM t WHERE id < 40")
        assert bytes_of(there) == bytes_of(here)
    world.change(there, "DELETE FROM t WHERE id BETWEEN 1900 AND 2000")
    assert bytes_of(here) == bytes_of(there) == bytes_of(world.fresh())
    assert copies(world) == before
    assert faults.count("stream") == 1


def test_a_copy_follows_a_database_that_shrinks_and_grows_again(world):
    here, there = world.worker(), world.worker("there")
    path = make_file(there.new_path(".upload"), 2000, auto_vacuum=1)
    world.genesis_from(there, path)
    rows_of(here)
    world.change(there, "DELETE FROM t WHERE id > 1500")
    assert rows_of(here) == rows_of(there)
    world.change(here, "INSERT INTO t SELECT id + 5000, v FROM t WHERE id < 700")
    assert bytes_of(here) == bytes_of(there) == bytes_of(world.fresh())


def run_process(root: str, first: int, count: int) -> None:
    """One worker process of a host: adds each number by a commit of its own."""
    from storage.errors import Conflict  # noqa: PLC0415 - in a process of its own

    heads = LocalHeadStore(Path(root) / "heads.db", run_inline)
    world = World(Path(root), heads=heads, objects=LocalObjectStore(Path(root) / "store", run_inline))
    world._numbers = iter(range(first * 1_000_000, first * 1_000_000 + 999_999))
    store = world.worker()
    for number in range(first, first + count):
        while True:
            try:
                world.change(store, f"INSERT INTO t VALUES ({number}, x'')")
            except Conflict:
                continue
            break
    store.close()


def test_processes_of_a_host_share_one_copy(tmp_path):
    heads = LocalHeadStore(tmp_path / "heads.db", run_inline)
    world = World(tmp_path, heads=heads, objects=LocalObjectStore(tmp_path / "store", run_inline))
    store = world.worker()
    world.genesis(store, rows=1000)
    rows_of(store)
    before = copies(world)
    code = "import sys; from tests.storage.database import test_copies as t;"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"{code} t.run_process({str(tmp_path)!r}, {first}, 10)"], cwd=ROOT
        )
        for first in (10_000, 20_000)
    ]
    assert [process.wait(100) for process in processes] == [0, 0]
    assert set(rows_of(store)) == {*range(1000), *range(10_000, 10_010), *range(20_000, 20_010)}
    assert bytes_of(store) == bytes_of(world.fresh())
    assert copies(world) == before
    world.close()
