"""History that outgrows a quota: what goes, what stays, and that what stays is whole."""

from __future__ import annotations

import pytest

from tests.support.databases import DATABASE, World, rows_of

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SYNCS_A_DAY = 60


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


def live(world, store, days):
    """A busy user: a sync every 10 minutes for ten hours of each day. What a few versions held."""
    held = {}
    for _day in range(days):
        for number in range(SYNCS_A_DAY):
            world.now_ms += 600_000
            head = world.change(store, f"UPDATE t SET v = x'{world.now_ms:016x}' WHERE id = {number * 13}")
            store.compact(DATABASE)
            if number % 6 == 5:  # the last one of its hour, or not far from it
                held[head.version] = rows_of(store)
        world.now_ms += DAY_MS - SYNCS_A_DAY * 600_000
    return held


def test_a_history_that_fits_is_kept_whole(world):
    store = world.worker(sweep_grace_ms=0)
    world.genesis(store)
    live(world, store, 3)
    store.sweep(DATABASE, world.now_ms, most_bytes=1 << 40)
    versions = [point.version for point in store.history(DATABASE)]
    assert versions == list(range(1, 3 * SYNCS_A_DAY + 2))


def test_a_history_that_does_not_fit_keeps_each_hour_and_then_each_day(world):
    store = world.worker(sweep_grace_ms=0)
    world.genesis(store)
    live(world, store, 10)
    times = {point.version: point.time_ms for point in store.history(DATABASE)}
    before = sum(stat.size_bytes for stat in world.objects.list("v1/"))
    store.sweep(DATABASE, world.now_ms, most_bytes=1)
    kept = {point.version for point in store.history(DATABASE)}
    for age_from, age_to, span_ms in (
        (0, DAY_MS, 1),
        (DAY_MS, 7 * DAY_MS, HOUR_MS),
        (7 * DAY_MS, 30 * DAY_MS, DAY_MS),
    ):
        last = {}
        for version, time_ms in times.items():
            if age_from <= world.now_ms - time_ms < age_to:
                last[time_ms // span_ms] = version
        assert set(last.values()) <= kept
    assert len(kept) < 0.8 * len(times), "whole chains go, so more versions stay than have to"
    assert sum(stat.size_bytes for stat in world.objects.list("v1/")) < before


def test_what_a_thinned_history_lists_can_be_brought_back(world):
    store = world.worker(sweep_grace_ms=0)
    world.genesis(store)
    held = live(world, store, 9)
    store.sweep(DATABASE, world.now_ms, most_bytes=1)
    fresh = world.fresh()
    points = fresh.history(DATABASE)
    tried = 0
    for point in points:
        if point.version in held:
            checkout = fresh.checkout_restore_point(DATABASE, point)
            found = dict(checkout.connection.execute("SELECT id, v FROM t"))
            fresh.discard(checkout)
            assert found == held[point.version]
            tried += 1
    assert tried > 20


def test_thinning_twice_takes_nothing_more(world):
    store = world.worker(sweep_grace_ms=0)
    world.genesis(store)
    live(world, store, 9)
    store.sweep(DATABASE, world.now_ms, most_bytes=1)
    kept = [point.version for point in store.history(DATABASE)]
    assert store.sweep(DATABASE, world.now_ms, most_bytes=1).deleted == 0
    assert [point.version for point in store.history(DATABASE)] == kept


def test_the_grace_spares_what_was_written_a_moment_ago(world):
    store = world.worker()
    world.genesis(store)
    live(world, store, 1)
    kept = [point.version for point in store.history(DATABASE)]
    store.sweep(DATABASE, world.now_ms, most_bytes=1)
    assert len(store.history(DATABASE)) == len(kept)
