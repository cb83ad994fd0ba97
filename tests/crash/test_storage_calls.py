"""Every store call of every script fails before or after it landed, or the process dies there.

Then a fresh worker with an empty disk looks: what was acknowledged is there, what was not is there
whole or not at all, and the database goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from storage.database.limits import Limits
from storage.errors import StorageError
from storage.objects.local import LocalObjectStore
from storage.types import run_inline
from tests.crash.backends import Open, backends, local_heads
from tests.support.databases import DATABASE, World, bytes_of, entry, new_session, rows_of
from tests.support.engines import moto_bucket, moto_endpoint, moto_table
from tests.support.faults import Faults

__all__ = ["moto_bucket", "moto_endpoint", "moto_table"]

LIMITS = Limits(
    merge_deltas=2,
    snapshot_percent=1000,
    sweep_grace_ms=0,
    journal_inline_bytes=100,
    journal_fold_entries=2,
)

BACKENDS = backends(wired_step=7)


class Script:
    """One worker's day. `told` holds what it was told is done: marks that must then be in the table."""

    def __init__(self, world: World, store, say=lambda mark: None) -> None:
        self.world, self.store, self.say = world, store, say

    def mark(self, number: int) -> str:
        return f"INSERT INTO t VALUES ({10_000 + number}, x'{number:02x}')"

    def genesis(self):
        self.world.genesis(self.store, rows=50, page_size=512)
        self.say(0)

    def plain(self, number):
        self.world.change(self.store, self.mark(number))
        self.say(number)

    def sync(self, number):
        """From the first message to the end; the journal is folded on the way."""
        store, name = self.store, f"sync-{number}"
        store.sessions.open(DATABASE, new_session(name))
        for size in (200, 10, 10):
            head = store.sessions.append(DATABASE, name, entry("applyChunk", b"b" * size))
        assert len(list(store.sessions.read_journal(head.session))) == 4
        checkout = store.checkout(DATABASE, head)
        with store.discarding(checkout):
            checkout.begin()
            checkout.connection.execute(self.mark(number))
        commit = self.world.commit(name, (name, head.session.seq))
        head = store.prepare(checkout, head, commit, b"checked", executor=run_inline)
        store.release(checkout)
        store.finish(DATABASE, head)
        self.say(number)

    def upload(self, number):
        head = self.store.head(DATABASE)
        path = self.store.new_path(".export")
        self.store.export(DATABASE, self.store.history(DATABASE)[-1], path)
        self.store.replace(DATABASE, head, path, self.world.commit())
        self.plain(number)

    def restore(self, number):
        """The newest version once more, by way of the history, with a mark of its own."""
        head = self.store.head(DATABASE)
        checkout = self.store.checkout_restore_point(DATABASE, self.store.history(DATABASE)[-1])
        try:
            checkout.begin()
            checkout.connection.execute(self.mark(number))
            self.store.restore(checkout, head, self.world.commit())
        finally:
            self.store.discard(checkout)
        self.say(number)

    def run(self):
        for step in self.steps():
            step()

    def steps(self):
        return [
            self.genesis,
            lambda: self.plain(1),
            lambda: self.sync(2),
            lambda: self.store.compact(DATABASE),
            lambda: self.sync(3),
            lambda: self.store.sweep(DATABASE, self.world.now_ms),
            lambda: self.upload(4),
            lambda: self.plain(5),
            lambda: self.restore(6),
            lambda: self.plain(7),
            lambda: self.store.compact(DATABASE),
            lambda: self.store.sweep(DATABASE, self.world.now_ms),
        ]


def count_calls(world: World) -> int:
    """The store calls of the script; they depend on the stores."""
    faults = Faults()
    store = world.worker(heads=faults.heads(world.heads), objects=faults.objects(world.objects))
    Script(world, store).run()
    world.heads.delete(DATABASE)
    world.close()
    return len(faults.calls)


def world_on(open_heads: Open, root: Path, request: pytest.FixtureRequest | None = None) -> World:
    """Objects are on the disk with local heads, in memory with others."""
    heads = open_heads(root, request)
    objects = LocalObjectStore(root / "store", run_inline) if open_heads is local_heads else None
    return World(root, heads=heads, objects=objects, limits=LIMITS)


def assert_sound(world: World, told: set[int], unknown: set[int]) -> None:
    """A fresh worker finds what was told, at most what was tried, and can go on."""
    fresh = world.fresh()
    if not fresh.head(DATABASE).version:
        assert not told
        Script(world, fresh).genesis()
    assert fresh.doctor(DATABASE).faults == ()
    marks = {number - 10_000 for number in rows_of(fresh) if number >= 10_000}
    assert told - {0} <= marks <= told | unknown
    before = bytes_of(fresh)
    fresh.sweep(DATABASE, world.now_ms)
    assert bytes_of(world.fresh()) == before
    world.change(fresh, "INSERT INTO t VALUES (20000, x'')")
    assert 20_000 in rows_of(world.fresh())
    points = fresh.history(DATABASE)
    assert [point.version for point in points] == list(range(1, fresh.head(DATABASE).version + 1))


@pytest.mark.parametrize(("heads", "step"), BACKENDS)
@pytest.mark.parametrize("landed", [False, True], ids=["before", "after"])
def test_every_call_fails_once_and_nothing_told_is_lost(tmp_path, request, heads, step, landed):
    total = count_calls(world_on(heads, tmp_path / "count", request))
    for number in range(1, total + 1, step):
        world = world_on(heads, tmp_path / str(number), request)
        faults, told = Faults(), set()
        store = world.worker(heads=faults.heads(world.heads), objects=faults.objects(world.objects))
        script = Script(world, store, told.add)
        faults.fail(number, landed=landed)
        failed = 0
        for step in script.steps():
            try:
                step()
            except StorageError:
                failed += 1
                if not told:
                    script.genesis()
        assert failed <= 1, number
        assert 8 - failed <= len(told) <= 8
        assert_sound(world, told, unknown=set(range(1, 8)))
        world.heads.delete(DATABASE)
        world.close()


@pytest.mark.parametrize(("heads", "step"), BACKENDS)
@pytest.mark.parametrize("landed", [False, True], ids=["before", "after"])
def test_every_call_fails_and_the_worker_gives_up_there(tmp_path, request, heads, step, landed):
    total = count_calls(world_on(heads, tmp_path / "count", request))
    for number in range(1, total + 1, step):
        world = world_on(heads, tmp_path / str(number), request)
        faults, told = Faults(), set()
        store = world.worker(heads=faults.heads(world.heads), objects=faults.objects(world.objects))
        faults.fail(number, landed=landed, error=KeyboardInterrupt())
        script = Script(world, store, told.add)
        with pytest.raises(KeyboardInterrupt):
            script.run()
        assert_sound(world, told, unknown={max(told, default=0) + 1})
        world.heads.delete(DATABASE)
        world.close()


def run_and_die(root: Path, number: int) -> None:
    """In a process of its own: run the script, writing down what is told, and die at a store call."""
    world, faults = world_on(local_heads, root), Faults()
    store = world.worker(heads=faults.heads(world.heads), objects=faults.objects(world.objects))
    told = (root / "told").open("ab", buffering=0)

    def die(call) -> None:
        if call.number == number:
            os.kill(os.getpid(), signal.SIGKILL)

    faults.watch = die
    Script(world, store, lambda mark: told.write(bytes([mark]))).run()


@pytest.mark.parametrize("part", range(4))
def test_a_process_killed_at_any_call_leaves_what_it_told(tmp_path, part):
    total = count_calls(world_on(local_heads, tmp_path / "count"))
    for number in range(1 + part, total + 1, 4):
        root = tmp_path / str(number)
        root.mkdir()
        code = (
            "import sys; from pathlib import Path; from tests.crash import test_storage_calls as t;"
            f"t.run_and_die(Path({str(root)!r}), {number})"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, timeout=60, cwd=Path(__file__).parents[2]
        )
        assert done.returncode == -signal.SIGKILL
        told = set((root / "told").read_bytes())
        world = world_on(local_heads, root)
        next_worker = world.worker()
        assert len([p for p in (root / "local" / "work").iterdir() if p.is_dir()]) == 1
        assert_sound(world, told, unknown={max(told, default=0) + 1})
        assert len(next_worker.head(DATABASE).chain) <= LIMITS.chain_deltas + 1
        world.close()
