"""A head record made from objects alone: which versions, and which chain, they tell of."""

from __future__ import annotations

import random

import pytest

from storage.database.format import keys
from storage.database.rebuild import TOKENS_BETWEEN, list_plans, make_head
from storage.database.store import DatabaseStore
from storage.errors import Corrupt, HeadMoved, NotFound, SessionLost, Unavailable
from tests.support.databases import DATABASE, World, bytes_of, new_session, rows_of
from tests.support.faults import Faults


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def store(world) -> DatabaseStore:
    store = world.worker(merge_deltas=3, chain_deltas=7)
    world.genesis(store)
    return store


def inventory_of(world, store):
    return store.take_inventory(DATABASE, list(world.objects.list(keys.prefix(DATABASE))))


def rebuilt(world, *, before=None):
    """The record that the objects tell, proven on an empty disk."""
    store = world.fresh()
    inventory = inventory_of(world, store)
    plan, _ = next(list_plans(inventory))
    store.discard(store.rebuild(DATABASE, plan.chain))
    return make_head(plan, inventory, before, {}, b"answer"), plan


def delete_row(world, store, number):
    world.now_ms += 1000
    return world.change(store, f"DELETE FROM t WHERE id = {number}")


def assert_equal(made, head):
    assert (made.version, made.page_size, made.page_count, made.checksum) == (
        head.version, head.page_size, head.page_count, head.checksum,
    )  # fmt: skip
    assert made.chain == head.chain
    assert made.recent[-1].commit_id == head.recent[-1].commit_id
    assert len(made.recent) == len(head.recent)
    assert made.token > head.token
    assert made.chain_revision >= head.chain_revision
    assert made.session is None


@pytest.mark.parametrize("cumulative_pages", [0, 64])
@pytest.mark.parametrize("seed", range(6))
def test_the_record_is_the_same_whatever_was_done(world, seed, cumulative_pages):
    chance = random.Random(seed)
    store = world.worker(
        merge_deltas=3, chain_deltas=7, cumulative_pages=cumulative_pages, sweep_grace_ms=0, history_ms=20_000
    )
    world.genesis(store)
    for number in range(40):
        what = chance.choices(("change", "upload", "compact", "sweep", "start"), (6, 1, 3, 1, 2))[0]
        world.now_ms += 1000
        if what == "change":
            delete_row(world, store, number)
        elif what == "upload":
            world.genesis(store, rows=500 + number)
        elif what == "compact":
            store.compact(DATABASE)
        elif what == "sweep":
            store.sweep(DATABASE)
        else:
            store.sessions.open(DATABASE, new_session(f"s{number}"))
        made, plan = rebuilt(world)
        assert_equal(made, store.head(DATABASE))
        assert plan.doubts == ()


def test_it_can_be_committed_to_and_swept(world, store):
    for number in range(9):
        delete_row(world, store, number)
        store.compact(DATABASE)
    rows = rows_of(store)
    made, _ = rebuilt(world)
    world.heads.delete(DATABASE)
    world.heads.replace_head(DATABASE, None, made)
    assert rows_of(store) == rows_of(world.fresh()) == rows
    delete_row(world, store, 100)
    world.now_ms += 40 * 24 * 3_600_000
    assert store.sweep(DATABASE).deleted
    assert store.doctor(DATABASE).faults == ()
    assert len(rows_of(world.fresh())) == len(rows) - 1


def test_a_sync_that_was_taken_over_is_not_among_the_versions(world, store):
    head = store.sessions.open(DATABASE, new_session("old"))
    with pytest.raises(Unavailable):
        commit_in_session(world, head, "old", "DELETE FROM t")
    head = store.sessions.open(DATABASE, new_session("new"))
    commit_in_session(world, head, "new", "DELETE FROM t WHERE id = 7", fails=False)
    made, plan = rebuilt(world)
    assert_equal(made, world.heads.find(DATABASE))
    assert plan.doubts == ()


def commit_in_session(world, head, name, sql, *, fails=True):
    """A commit, which ends before its head update if it `fails`."""
    faults = Faults()
    worker = world.worker(f"of-{name}", heads=faults.heads(world.heads))
    checkout = worker.checkout(DATABASE, head)
    checkout.begin()
    checkout.connection.execute(sql)
    if fails:
        faults.fail_next("advance_head", landed=False)
    return worker.commit(checkout, head, world.commit(name, (name, 1)))


def test_a_commit_whose_head_update_is_not_known_counts_as_done(world, store):
    head = store.sessions.open(DATABASE, new_session("sync"))
    with pytest.raises(Unavailable):
        commit_in_session(world, head, "sync", "DELETE FROM t WHERE id = 7")
    made, plan = rebuilt(world, before=head)
    assert made.version == head.version + 1
    assert made.recent[-1].commit_id == "sync"
    assert made.token >= head.token + TOKENS_BETWEEN
    assert plan.doubts == ()


def test_which_of_two_commits_of_one_token_won_is_told_by_the_next_one(world, store):
    """Two workers store the same version, and only one of them makes it the head's."""
    head = store.head(DATABASE)
    world.now_ms += 5000
    winner = world.change(store, "DELETE FROM t WHERE id = 1", head=head)
    world.now_ms += 5000
    with pytest.raises(HeadMoved):
        world.change(world.worker("loser"), "DELETE FROM t WHERE id = 2", head=head)
    made, plan = rebuilt(world)
    assert made.version == winner.version
    assert "which of 2 commits won" in plan.doubts[0]
    delete_row(world, store, 3)
    made, plan = rebuilt(world)
    assert_equal(made, store.head(DATABASE))
    assert plan.doubts == ()


@pytest.mark.parametrize("damage", ["gone", "head", "middle", "end"])
def test_a_damaged_object_is_got_round_where_another_one_has_the_pages(world, store, damage):
    for number in range(4):
        delete_row(world, store, number)
    content = bytes_of(store)
    assert store.compact(DATABASE)
    folded = keys.entry_key(DATABASE, store.head(DATABASE).chain[-1])
    spoil(world, folded, damage)
    version, found, noted = bring_back(world)
    assert version == store.head(DATABASE).version
    assert found == content
    assert damage == "gone" or folded in noted


@pytest.mark.parametrize("damage", ["gone", "head", "middle", "end"])
def test_a_damaged_last_commit_leaves_the_version_before(world, store, damage):
    head, content = delete_row(world, store, 1), bytes_of(store)
    last = keys.entry_key(DATABASE, delete_row(world, store, 2).chain[-1])
    spoil(world, last, damage)
    version, found, noted = bring_back(world)
    assert version == head.version
    assert found == content
    assert damage == "gone" or last in noted


def spoil(world, key, damage):
    content = world.objects.read(key)
    at = {"head": 9, "middle": len(content) // 2, "end": len(content) - 3}.get(damage, 0)
    world.objects.delete([key])
    if damage != "gone":
        world.objects.put(key, content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])


def bring_back(world):
    """Version and bytes that come back, and what was noted on the way."""
    store = world.fresh()
    inventory = inventory_of(world, store)
    noted = list(inventory.faults)
    for plan, bad in list_plans(inventory):
        try:
            checkout = store.rebuild(DATABASE, plan.chain)
        except (Corrupt, NotFound) as exc:
            noted.append(str(exc))
            bad.extend(key for entry in plan.chain if (key := keys.entry_key(DATABASE, entry)) in str(exc))
            continue
        content = b"".join(checkout.reader().blocks())
        store.discard(checkout)
        return plan.version, content, " ".join(noted)
    raise AssertionError(noted)


def test_who_read_an_earlier_record_can_commit_nothing(world, store):
    """Not even if the version is the same: its object could be swept, as its token is below the record's."""
    before = store.sessions.open(DATABASE, new_session("sync"))
    checkout = store.checkout(DATABASE, before)
    checkout.begin()
    checkout.connection.execute("DELETE FROM t")
    made, _ = rebuilt(world)
    world.heads.delete(DATABASE)
    world.heads.replace_head(DATABASE, None, made)
    with pytest.raises(SessionLost):
        store.commit(checkout, before, world.commit("sync", ("sync", 1)))
    with pytest.raises(HeadMoved):
        world.change(store, "DELETE FROM t", head=before)
    assert world.heads.find(DATABASE) == made
