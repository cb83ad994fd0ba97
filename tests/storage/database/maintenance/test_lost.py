"""What objects tell of a head record that is lost, or was put back to an earlier moment."""

from __future__ import annotations

import pytest

from storage.database.maintenance.lost import find_evidence, list_lost, list_unlisted
from storage.database.maintenance.mark import HeadsMark, list_databases
from storage.errors import DeletionUnsafe, Unavailable
from storage.heads.memory import MemoryHeadStore
from tests.support.databases import DATABASE, OTHER, World, bytes_of, new_session
from tests.support.faults import Faults


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def store(world):
    store = world.worker(sweep_grace_ms=0)
    world.genesis(store)
    return store


def evidence(world, head):
    return find_evidence(DATABASE, head, world.objects.list("v1/"))


def test_a_sound_database_gives_none(world, store):
    for _ in range(3):
        head = world.change(store, "DELETE FROM t WHERE id = 1")
        assert evidence(world, head) is None


@pytest.mark.parametrize("back", [2, 3])
def test_a_head_of_two_commits_ago_is_proven_to_be_old(world, store, back):
    heads = [world.change(store, f"DELETE FROM t WHERE id = {n}") for n in range(4)]
    found = evidence(world, heads[-1 - back])
    assert found.is_proof
    assert "the head is at version" in found.text


def test_a_head_from_before_a_snapshot_is_proven_to_be_old_by_the_history(world, store):
    before = store.head(DATABASE)
    world.genesis(store)
    world.genesis(store)
    assert evidence(world, before).is_proof


def test_a_head_from_before_the_last_sync_is_likely_to_be_old(world, store):
    before = store.head(DATABASE)
    head = store.sessions.open(DATABASE, new_session("sync"))
    checkout = store.checkout(DATABASE, head)
    checkout.begin()
    checkout.connection.execute("DELETE FROM t WHERE id = 1")
    store.commit(checkout, head, world.commit("sync", ("sync", 1)))
    found = evidence(world, before)
    assert (found.is_proof, found.is_likely) == (False, True)
    world.heads._heads[DATABASE] = before
    assert "of an earlier moment, or the machine lost power" in store.doctor(DATABASE).faults[0]


def test_a_commit_that_failed_is_no_proof_and_no_fault(world, store):
    faults = Faults()
    failing = world.worker("failing", heads=faults.heads(world.heads))
    faults.fail_next("advance_head", landed=False)
    with pytest.raises(Unavailable):
        world.change(failing, "DELETE FROM t WHERE id = 1")
    found = evidence(world, world.heads.find(DATABASE))
    assert (found.is_proof, found.is_likely) == (False, False)
    assert store.doctor(DATABASE).faults == ()
    store.sessions.open(DATABASE, new_session("next"))
    assert evidence(world, world.heads.find(DATABASE)) is None


def test_a_commit_that_is_under_way_is_no_evidence(world, store):
    head = store.sessions.open(DATABASE, new_session("sync"))
    faults = Faults()
    store._heads = faults.heads(world.heads)
    seen = []
    faults.watch = lambda call: seen.append(evidence(world, world.heads.find(DATABASE)))
    checkout = store.checkout(DATABASE, head)
    checkout.begin()
    checkout.connection.execute("DELETE FROM t WHERE id = 1")
    store.commit(checkout, head, world.commit("sync", ("sync", 1)))
    assert seen == [None]


def test_nothing_of_a_database_with_an_old_head_is_swept(world, store):
    before = store.head(DATABASE)
    for _ in range(3):
        world.genesis(store)
    world.heads._heads[DATABASE] = before
    world.now_ms += 40 * 86_400_000
    for _ in range(5):  # later sessions, whose tokens are past those of the lost commits
        store.sessions.open(DATABASE, new_session("next"))
    with pytest.raises(DeletionUnsafe, match="nothing of it is deleted"):
        store.sweep(DATABASE)


def test_a_loss_that_is_accepted_leaves_no_trace_and_a_sound_database(world, store):
    before, expected = store.head(DATABASE), bytes_of(store)
    for n in range(3):
        world.genesis(store)
        world.change(store, f"DELETE FROM t WHERE id = {n}")
    lost = store.head(DATABASE)
    world.heads._heads[DATABASE] = before
    assert store.sweep(DATABASE, accept_loss=True).deleted > 6
    assert evidence(world, store.head(DATABASE)) is None
    assert store.sweep(DATABASE).deleted == 0
    assert store.head(DATABASE).token >= lost.token
    assert store.head(DATABASE).session is None
    assert bytes_of(world.fresh()) == expected
    world.change(world.fresh(), "DELETE FROM t WHERE id = 7")
    assert store.doctor(DATABASE).faults == ()


def test_databases_without_a_head_record_are_found(world, store):
    world.genesis(store, OTHER)
    world.genesis(store, OTHER)
    world.heads.delete(OTHER)
    (lost,) = list_lost(world.heads, world.objects)
    assert (lost.database, lost.has_record, lost.evidence.is_proof) == (OTHER, False, True)
    assert list(list_unlisted(world.heads, world.objects, frozenset())) == [(DATABASE, True), (OTHER, False)]


def test_looking_for_losses_can_be_ended(world, store):
    world.heads.delete(DATABASE)
    assert list(list_lost(world.heads, world.objects, go_on=lambda: False)) == []


class TestMark:
    @pytest.fixture
    def mark(self, world):
        return HeadsMark(world.heads, world.objects, world.nonce)

    def test_a_new_store_has_no_fault_and_steps_leave_none(self, world, mark):
        for _ in range(3):
            assert mark.find_fault() is None
            mark.advance(world.now_ms)
        mark.remove_older()
        assert mark.find_fault() is None
        assert len(list(world.objects.list("upkeep/"))) == 1

    def test_a_step_takes_no_right_to_delete(self, world, mark):
        faults = Faults()
        for _ in range(2):
            HeadsMark(faults.heads(world.heads), faults.objects(world.objects), world.nonce).advance(
                world.now_ms
            )
        assert "delete" not in {call.method for call in faults.calls}

    def test_it_is_no_users_database(self, world, store, mark):
        mark.advance(world.now_ms)
        assert list(list_databases(world.heads)) == [DATABASE]

    def test_a_step_that_is_broken_off_is_no_fault(self, world, mark):
        mark.advance(world.now_ms)
        faults = Faults()
        faults.fail_next("put", landed=False)
        with pytest.raises(Unavailable):
            HeadsMark(world.heads, faults.objects(world.objects), world.nonce).advance(world.now_ms)
        assert mark.find_fault() is None
        mark.advance(world.now_ms)
        assert mark.find_fault() is None

    def test_a_step_that_another_process_takes_is_left_to_it(self, world, mark):
        other = HeadsMark(world.heads, world.objects, world.nonce)
        faults = Faults()
        faults.watch = lambda call: other.advance(world.now_ms) if call.method == "advance_head" else None
        HeadsMark(faults.heads(world.heads), world.objects, world.nonce).advance(world.now_ms)
        assert mark.find_fault() is None

    def test_records_that_are_gone_are_noticed(self, world, mark):
        mark.advance(world.now_ms)
        lost = HeadsMark(MemoryHeadStore(), world.objects, world.nonce)
        assert "missing or empty beside the stored objects" in lost.find_fault()

    def test_records_of_an_earlier_moment_are_noticed(self, world, mark):
        mark.advance(world.now_ms)
        earlier = dict(world.heads._heads)
        mark.advance(world.now_ms)
        world.heads._heads = earlier
        assert "of an earlier moment than the stored objects" in mark.find_fault()

    def test_a_store_of_before_the_mark_that_has_no_records_is_noticed(self, world, store, mark):
        assert mark.find_fault() is None
        world.heads.delete(DATABASE)
        assert "no head records at all" in mark.find_fault()

    def test_what_is_accepted_is_no_fault_any_more(self, world, mark):
        for _ in range(5):
            mark.advance(world.now_ms)
        world.heads._heads.clear()
        mark.advance(world.now_ms, accept=True)
        assert mark.find_fault() is None
