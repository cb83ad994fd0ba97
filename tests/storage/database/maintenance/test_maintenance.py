"""Compaction, history, sweep, doctor: chains stay short, the past stays, the dead go."""

from __future__ import annotations

import pytest

from storage.database.failures import Failure, failure_object, list_failures
from storage.database.history import find_restore_point
from storage.errors import HeadMoved, NotFound, Unavailable
from storage.types import EntryKind
from tests.support.databases import (
    DATABASE,
    OTHER,
    World,
    bytes_of,
    entry,
    new_session,
    rows_of,
)
from tests.support.faults import Faults

DAY_MS = 24 * 3_600_000


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


def deltas(world, store, count, start=0):
    for n in range(start, start + count):
        head = world.change(store, f"UPDATE t SET v = x'{n:04x}' WHERE id = {n * 13}")
    return head


def keys(world, database=DATABASE):
    return {stat.key for stat in world.objects.list(f"v1/{database.user}/")}


def test_a_short_light_chain_is_left_alone(world):
    store = world.worker(snapshot_percent=1000)
    world.genesis(store)
    head = deltas(world, store, 15)
    assert not store.compact(DATABASE)
    assert store.head(DATABASE) == head


@pytest.mark.parametrize("somewhere", ["the same worker", "a fresh worker"])
def test_sixteen_deltas_are_merged_into_one_of_the_same_state(world, somewhere):
    store = world.worker(snapshot_percent=1000)
    world.genesis(store)
    before, expected = deltas(world, store, 16), bytes_of(store)
    compactor = store if somewhere == "the same worker" else world.fresh(snapshot_percent=1000)
    assert compactor.compact(DATABASE)
    head = store.head(DATABASE)
    assert [(e.first, e.last) for e in head.chain] == [(1, 1), (2, 17)]
    assert (head.version, head.token, head.checksum) == (before.version, before.token, before.checksum)
    assert head.chain_revision == before.chain_revision + 1
    assert head.chain[-1].time_ms == before.chain[-1].time_ms
    assert bytes_of(store) == bytes_of(world.fresh()) == expected


def test_merged_deltas_are_not_merged_again(world):
    store = world.worker(snapshot_percent=1000, merge_deltas=4)
    world.genesis(store)
    for start in (0, 4, 8):
        deltas(world, store, 4, start)
        assert store.compact(DATABASE)
    assert [(e.first, e.last) for e in store.head(DATABASE).chain] == [(1, 1), (2, 5), (6, 9), (10, 13)]
    assert bytes_of(store) == bytes_of(world.fresh())


def test_a_copy_inside_a_merged_delta_is_brought_on(world):
    one, two = world.worker("one", snapshot_percent=1000), world.worker("two")
    world.genesis(one)
    deltas(world, one, 7)
    bytes_of(two)
    deltas(world, one, 9, 7)
    assert one.compact(DATABASE)
    faults = Faults()
    two._assembler._objects = faults.objects(world.objects)
    assert bytes_of(two) == bytes_of(one)
    assert [call.method for call in faults.calls] == ["read_many"]


def test_heavy_deltas_become_a_snapshot(world):
    store = world.worker(snapshot_percent=10)
    world.genesis(store)
    deltas(world, store, 6)
    expected = bytes_of(store)
    assert store.compact(DATABASE)
    head = store.head(DATABASE)
    assert [(e.kind, e.last) for e in head.chain] == [(EntryKind.SNAPSHOT, 7)]
    assert bytes_of(store) == bytes_of(world.fresh()) == expected
    deltas(world, store, 2, 6)
    assert bytes_of(store) == bytes_of(world.fresh())


def test_compaction_loses_to_a_commit(world):
    store, other = world.worker("one", snapshot_percent=0), world.worker("two")
    world.genesis(store)
    deltas(world, store, 2)
    faults = Faults()
    store._compactor._heads = faults.heads(world.heads)
    faults.watch = lambda call: world.change(other, "DELETE FROM t WHERE id = 1")
    assert not store.compact(DATABASE)
    assert 1 not in rows_of(store)
    assert bytes_of(store) == bytes_of(world.fresh())


def test_compaction_loses_to_a_start(world):
    store = world.worker(snapshot_percent=0)
    world.genesis(store)
    deltas(world, store, 2)
    faults = Faults()
    store._compactor._heads = faults.heads(world.heads)
    faults.watch = lambda call: world.heads.open_session(DATABASE, new_session("sync"))
    assert not store.compact(DATABASE)


def test_every_version_can_be_brought_back_through_merges_and_snapshots(world):
    store = world.worker(snapshot_percent=400, merge_deltas=3, chain_deltas=5, sweep_grace_ms=0)
    world.genesis(store)
    images = {1: bytes_of(store)}
    for n in range(14):
        world.now_ms += 1000
        head = deltas(world, store, 1, n)
        images[head.version] = bytes_of(store)
        store.compact(DATABASE)
        store.sweep(DATABASE)
    world.genesis(store, rows=4)
    images[16] = bytes_of(store)
    store.sweep(DATABASE)
    points = store.history(DATABASE)
    assert [point.version for point in points] == list(range(1, 17))
    fresh = world.fresh()
    for point in points:
        path = fresh.new_path(".restored")
        fresh.export(DATABASE, point, path)
        assert path.read_bytes() == images[point.version]


def restore(world, store, version, *sql):
    """Bring a version back, with a change on top of it; returns the head."""
    checkout = store.checkout_restore_point(DATABASE, find_restore_point(store.history(DATABASE), version))
    checkout.begin()
    for statement in sql:
        checkout.connection.execute(statement)
    head = store.restore(checkout, store.head(DATABASE), world.commit())
    store.release(checkout)
    return head


def test_a_restored_version_becomes_the_current_one(world):
    store = world.worker()
    world.genesis(store)
    expected = bytes_of(store)
    world.genesis(store, rows=2)
    head = restore(world, store, 1)
    assert (head.version, len(head.chain), head.chain[0].kind) == (3, 1, EntryKind.SNAPSHOT)
    assert bytes_of(store) == bytes_of(world.fresh()) == expected
    assert [point.version for point in store.history(DATABASE)] == [1, 2, 3]


def test_a_change_on_top_of_a_restored_version_is_one_commit_with_it(world):
    store = world.worker()
    world.genesis(store, rows=5)
    deltas(world, store, 3)
    head = restore(world, store, 2, "DELETE FROM t WHERE id = 1")
    assert head.version == 5
    rows = rows_of(world.fresh())
    assert 1 not in rows
    assert rows == rows_of(store)
    world.change(store, "DELETE FROM t WHERE id = 2")
    assert rows.keys() - rows_of(world.fresh()).keys() == {2}
    assert restore(world, store, 4).version == 7
    assert store.doctor(DATABASE).faults == ()


def test_a_restore_on_a_head_that_has_moved_is_refused_and_leaves_no_copy(world):
    store = world.worker()
    world.genesis(store)
    world.genesis(store, rows=2)
    stale = store.head(DATABASE)
    world.change(world.fresh(), "DELETE FROM t WHERE id = 1")
    checkout = store.checkout_restore_point(DATABASE, find_restore_point(store.history(DATABASE), 1))
    with pytest.raises(HeadMoved):
        store.restore(checkout, stale, world.commit())
    assert not checkout.path.exists()
    assert len(rows_of(world.fresh())) == 1


def test_a_version_that_is_not_kept_is_named_together_with_what_is(world):
    store = world.worker()
    world.genesis(store)
    with pytest.raises(NotFound, match="version 7 is not in the history: versions 1 to 1 are kept"):
        find_restore_point(store.history(DATABASE), 7)
    with pytest.raises(NotFound, match="there are none"):
        find_restore_point([], 7)


def test_sweep_keeps_what_history_names_for_thirty_days(world):
    store = world.worker()
    world.genesis(store)
    old = keys(world)
    world.genesis(store, rows=2)
    world.now_ms += 29 * DAY_MS
    assert store.sweep(DATABASE).deleted == 0
    assert old <= keys(world)
    world.now_ms += 2 * DAY_MS
    assert store.sweep(DATABASE).deleted == 2
    assert len(keys(world)) == 1
    assert len(rows_of(world.fresh())) == 2
    assert [point.version for point in store.history(DATABASE)] == [2]


def test_sweep_keeps_what_is_known_of_failed_syncs_for_thirty_days(world):
    store = world.worker()
    world.genesis(store)
    world.objects.put(*failure_object(DATABASE, Failure(world.now_ms, "finish"), "nonce"))
    world.now_ms += 29 * DAY_MS
    assert store.sweep(DATABASE).deleted == 0
    world.now_ms += 2 * DAY_MS
    assert store.sweep(DATABASE).deleted == 1
    assert list(list_failures(world.objects, DATABASE)) == []
    assert len(rows_of(world.fresh())) == 2000


def test_an_expired_version_cannot_be_exported(world):
    store = world.worker()
    world.genesis(store)
    world.genesis(store, rows=2)
    point = store.history(DATABASE)[0]
    world.now_ms += 31 * DAY_MS
    store.sweep(DATABASE)
    with pytest.raises(NotFound):
        world.fresh().export(DATABASE, point, store.new_path(".restored"))


def test_sweep_deletes_what_a_failed_commit_left_once_its_token_is_past(world):
    faults = Faults()
    store = world.worker(heads=faults.heads(world.heads), sweep_grace_ms=0)
    head = world.genesis(store)
    checkout = store.checkout(DATABASE, head)
    checkout.connection.execute("DELETE FROM t WHERE id = 1")
    faults.fail_next("advance_head", landed=False)
    with pytest.raises(Unavailable):
        store.commit(checkout, head, world.commit())
    orphan = {key for key in keys(world) if "/d/" in key}
    assert len(orphan) == 1
    assert store.sweep(DATABASE).deleted == 0
    store.sessions.open(DATABASE, new_session("next"))
    assert store.sweep(DATABASE).deleted == 1
    assert not orphan & keys(world)


def test_sweep_spares_the_young(world):
    store = world.worker()
    head = world.genesis(store)
    world.objects.put(f"v1/ann/collection/j/{0:016x}/0001-x.req", b"old body")
    assert head.token == 1
    assert store.sweep(DATABASE).deleted == 0
    world.now_ms += DAY_MS
    assert store.sweep(DATABASE).deleted == 1


def test_sweep_spares_the_running_journal_and_takes_the_one_before(world):
    store = world.worker(sweep_grace_ms=0)
    for name in ("first", "second"):
        store.sessions.open(DATABASE, new_session(name))
        store.sessions.append(DATABASE, name, entry("applyChunk", b"x" * 20_000))
    assert store.sweep(DATABASE).deleted == 1
    session = store.head(DATABASE).session
    assert [body for _, body in store.sessions.read_journal(session)][1] == b"x" * 20_000


def test_sweep_leaves_names_it_does_not_know_and_other_users(world):
    store = world.worker(sweep_grace_ms=0)
    world.genesis(store)
    world.genesis(store, OTHER)
    world.objects.put("v1/ann/collection/x/unknown", b"")
    before = keys(world, OTHER)
    store.sweep(DATABASE)
    assert "v1/ann/collection/x/unknown" in keys(world)
    assert keys(world, OTHER) == before


def test_sweep_of_a_database_without_a_record_deletes_nothing(world):
    store = world.worker(sweep_grace_ms=0)
    world.genesis(store)
    world.heads.delete(DATABASE)
    assert store.sweep(DATABASE).deleted == 0
    assert len(keys(world)) == 1


def test_erase_leaves_nothing_of_a_database(world):
    store = world.worker()
    world.genesis(store)
    world.genesis(store, OTHER)
    store.erase(DATABASE)
    assert keys(world) == set()
    assert store.head(DATABASE).version == 0
    assert len(rows_of(store, OTHER)) == 2000


def test_a_checkout_planned_before_compaction_and_sweep_plans_again(world):
    store = world.worker(snapshot_percent=0, sweep_grace_ms=0, history_ms=0)
    world.genesis(store)
    planned = deltas(world, store, 3)
    store.compact(DATABASE)
    store.sessions.open(DATABASE, new_session("bump"))
    assert store.sweep(DATABASE).deleted > 0
    checkout = world.fresh().checkout(DATABASE, planned)
    assert checkout.version == planned.version


def test_the_doctor_finds_a_sound_database_sound(world):
    store = world.worker()
    world.genesis(store)
    deltas(world, store, 3)
    diagnosis = store.doctor(DATABASE)
    assert (diagnosis.version, diagnosis.objects, diagnosis.faults) == (4, 4, ())


@pytest.mark.parametrize("kind", ["/s/", "/d/"])
def test_the_doctor_finds_a_missing_and_a_flipped_object(world, kind):
    store = world.worker()
    world.genesis(store)
    deltas(world, store, 2)
    key = next(key for key in sorted(keys(world)) if kind in key)
    content = world.objects.read(key)
    for spoilt in (None, content[:200] + bytes([content[200] ^ 16]) + content[201:], content[:-1]):
        world.objects.delete([key])
        if spoilt is not None:
            world.objects.put(key, spoilt)
        assert len(store.doctor(DATABASE).faults) == 1


def test_the_doctor_misses_an_object_of_the_past(world):
    store = world.worker()
    world.genesis(store)
    lost = next(iter(keys(world)))
    world.genesis(store, rows=2)
    world.objects.delete([lost])
    assert any(lost in fault for fault in store.doctor(DATABASE).faults)
