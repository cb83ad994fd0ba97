"""One sync on many workers: whichever answers a request, the client and the store see the same."""

from __future__ import annotations

import json
import random

import pytest
from msgspec.structs import replace

from app.sync import chunks, journal
from app.sync.merge import Merge
from storage.collection.collection import Collection
from storage.database.limits import Limits
from tests.app.sync.test_sync_devices import scripts_of
from tests.app.sync.workers import COLLECTION, World
from tests.support.faults import Faults

FINISH = ("finish", {})


@pytest.fixture
def new_world(tmp_path, codec, base):
    """Any number of worlds that begin alike."""
    worlds = []

    def make():
        folder = tmp_path / f"world{len(worlds)}"
        folder.mkdir()
        worlds.append(World(folder, codec, base))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


def expected(new_world, script):
    """What one worker answers, and what is then stored."""
    world = new_world()
    worker = world.worker()
    return [worker.do(request) for request in [*script, FINISH]], world.committed()


def serve(workers, script):
    """The answers of a script, each request on the worker that `workers` gives next."""
    return [next(workers).do(request) for request in [*script, FINISH]]


def alternating(world):
    """Two workers, in turn."""
    pair = [world.worker(), world.worker()]
    while True:
        yield from pair


def at_random(world, seed):
    """Three workers, any of them."""
    workers = [world.worker() for _ in range(3)]
    chance = random.Random(seed)
    while True:
        yield chance.choice(workers)


def always_new(world):
    """A worker per request: the one before was killed."""
    while True:
        yield world.worker()


def test_two_workers_in_turn_answer_as_one_does(new_world, base):
    """Every request finds the other worker's work in the record."""
    for seed in range(5):
        script = base.script(seed)
        world = new_world()
        assert (serve(alternating(world), script), world.committed()) == expected(new_world, script)


def test_workers_at_random_answer_as_one_does(new_world, base):
    """Some of them know an older record of the sync."""
    for seed in range(10, 20):
        script = base.script(seed)
        world = new_world()
        assert (serve(at_random(world, seed), script), world.committed()) == expected(new_world, script)


def test_a_sync_is_merged_once_whatever_number_of_workers_serves_it(new_world, base, monkeypatch):
    """Each message is applied by one of them, once."""
    applied = []
    apply = Merge._apply
    monkeypatch.setattr(Merge, "_apply", lambda self, *args: (applied.append(args[0]), apply(self, *args))[1])
    chunk = ("applyChunk", {"chunk": {"done": False, "revlog": []}})
    for workers in (alternating, always_new):
        start, *rest = base.script(3)
        script = [start, *rest[:-1], chunk, rest[-1]]
        world = new_world()
        serve(workers(world), script)
        assert world.head().version == 2
        brought = [method for method, _ in script if method.startswith("apply")]
        assert [entry.method for entry in applied] == brought
        applied.clear()


def test_a_worker_killed_between_any_two_requests_is_not_missed(new_world, base):
    """Each request is served by a worker that has never heard of the sync."""
    script = base.script(21)
    world = new_world()
    assert (serve(always_new(world), script), world.committed()) == expected(new_world, script)


def test_workers_at_random_serve_several_syncs_one_after_the_other(new_world, base):
    """Copies of one version must not be taken for another's."""
    world, single = new_world(), new_world()
    workers, alone = at_random(world, 5), single.worker()
    for seed in range(30, 34):
        script = base.script(seed)[:-1]
        answers = [next(workers).do(request, f"key{seed}") for request in [*script, FINISH]]
        assert answers == [alone.do(request, f"key{seed}") for request in [*script, FINISH]]
        assert world.committed() == single.committed()


def test_a_start_on_another_worker_takes_the_sync_over(new_world, base):
    """Every further request of the first client is refused, on the worker that has its sync too."""
    world = new_world()
    first, second = world.worker(), world.worker()
    mine, theirs = base.script(40), base.script(41)
    for number in range(1, len(mine) + 1):
        for request in mine[:number]:
            assert first.do(request, "mine")[0] == 200
        assert second.do(theirs[0], "theirs")[0] == 200
        following = [*mine, FINISH][number]
        assert first.do(following, "mine") == (409, b"")
    for request in [*theirs[1:], FINISH]:
        assert first.do(request, "theirs")[0] == 200


def test_another_revision_of_the_merge_is_not_mixed_in(new_world, base):
    """During a rolling update the client starts anew."""
    world = new_world()
    assert world.worker().do(base.script(52)[0])[0] == 200
    _rewrite(world, world.head().session, revision=journal.MERGE_REVISION + 1)
    assert world.worker().do(FINISH) == (409, b"")


def test_a_store_that_is_away_before_the_append_leaves_the_sync_as_it_was(new_world, base):
    """The client that tries again is served, by this worker or another."""
    _try_again(new_world, base, landed=False)


def test_a_lost_reply_of_the_append_is_made_good(new_world, base):
    """The request is in the journal: asked again it is not applied twice."""
    _try_again(new_world, base, landed=True)


def _try_again(new_world, base, *, landed):
    script = [request for request in base.script(60) if request[0] != "chunk"]
    answers, stored = expected(new_world, script)
    for number in range(1, len(script)):
        world, faults = new_world(), Faults()
        worker, other = world.worker(faults), world.worker()
        for request in script[:number]:
            assert worker.do(request)[0] == 200
        is_check = script[number][0] == "sanityCheck2"
        faults.fail_next("update_session" if is_check else "append", landed=landed)
        assert worker.do(script[number])[0] == 503
        again = other if number % 2 else worker
        assert [again.do(request) for request in [*script[number:], FINISH]] == answers[number:]
        assert world.committed() == stored


def test_a_lost_reply_of_the_head_update_is_made_good(new_world, base):
    """The commit is there, so the client hears of it."""
    script = base.script(61)
    answers, stored = expected(new_world, script)
    world, faults = new_world(), Faults()
    worker = world.worker(faults)
    for request in script:
        assert worker.do(request)[0] == 200
    faults.fail_next("advance_head", landed=True)
    assert worker.do(FINISH) == answers[-1]
    assert world.committed() == stored


def test_a_head_update_that_did_not_land_can_be_tried_again(new_world, base):
    """The journal still has the whole sync."""
    script = base.script(62)
    answers, stored = expected(new_world, script)
    world, faults = new_world(), Faults()
    worker = world.worker(faults)
    for request in script:
        assert worker.do(request)[0] == 200
    faults.fail_next("advance_head", landed=False)
    assert worker.do(FINISH) == (503, b"")
    assert worker.do(FINISH) == answers[-1]
    assert world.committed() == stored


@pytest.mark.parametrize("landed", [False, True])
def test_any_single_failing_call_of_a_store_loses_no_answered_request(new_world, base, landed):
    """A client that repeats what was answered 503 gets to the same end."""
    script = [request for request in base.script(63) if request[0] != "chunk"]
    _, stored = expected(new_world, script)
    number = 0
    while True:
        number += 1
        world, faults = new_world(), Faults()
        worker = world.worker(faults)
        faults.clear()
        faults.fail(number, landed=landed)
        statuses = []
        for request in [*script, FINISH]:
            status = worker.do(request)[0]
            statuses.append(status)
            if status == 503:
                statuses.append(worker.do(request)[0])
        assert set(statuses) <= {200, 503}, (number, statuses)
        assert statuses.count(503) <= 1
        assert world.committed() == stored, number
        if number > len(faults.calls):
            return


def test_a_chunk_that_another_worker_gives_at_the_same_time_is_given_once(new_world, base, monkeypatch):
    """Where the sync is in our rows is written under the condition that nothing came between."""
    monkeypatch.setattr(chunks, "CHUNK_BATCHES", 1)
    world, faults = new_world(), Faults()
    worker, other = world.worker(faults), world.worker()
    assert worker.do(("start", {"minUsn": 0, "lnewer": True}))[0] == 200
    between, others = iter([("chunk", {})]), []

    def overtake(call):
        if call.method == "update_session":
            others.extend(other.do(request) for request in between)

    faults.watch = overtake
    rows = [json.loads(worker.do(("chunk", {}))[1]), json.loads(others[0][1])]
    rows.append(json.loads(other.do(("chunk", {}))[1]))
    ids = [row[0] for answer in rows for row in answer["cards"]]
    assert sorted(ids) == sorted(card[0] for card in base.cards)


def test_the_sanity_check_is_not_answered_from_a_copy_that_is_behind(new_world, base):
    """Its counts would be wrong, and the client would sync in full for nothing."""
    world = new_world()
    first, second = world.worker(), world.worker()
    script = base.script(65)
    assert first.do(script[0])[0] == 200
    for request in script[1:-1]:
        assert second.do(request)[0] == 200
    status, answer = first.do(script[-1])
    assert (status, b'"ok"' in answer) == (200, True)
    assert first.do(FINISH)[0] == 200


def test_two_workers_that_begin_a_new_users_collection_agree_on_one(empty_world):
    """The one whose empty collection comes second takes the other's."""
    faults = Faults()
    worker, other = empty_world.worker(faults), empty_world.worker()
    start = ("start", {"minUsn": 0, "lnewer": False})
    others = iter([start, FINISH])

    def overtake(call):
        if call.method == "advance_head":
            for request in others:
                assert other.do(request, "other")[0] == 200

    faults.watch = overtake
    assert worker.do(start)[0] == 200
    assert worker.do(FINISH)[0] == 200
    assert empty_world.head().version == 3


def test_a_merge_that_fails_by_a_fault_of_ours_can_be_tried_again(new_world, base, monkeypatch):
    """The journal still has the whole sync."""
    script = base.script(66)
    answers, stored = expected(new_world, script)
    world = new_world()
    worker = world.worker()
    *rows, check = script
    assert [worker.do(request) for request in rows] == answers[: len(rows)]
    with monkeypatch.context() as patch:
        patch.setattr(Collection, "apply_changes", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            worker.do(check)
    assert [worker.do(request) for request in [check, FINISH]] == answers[len(rows) :]
    assert world.committed() == stored


def test_a_sync_whose_journal_lost_a_body_is_a_conflict(new_world, base):
    """It was ended and swept while this worker read it."""
    world = new_world()
    small = Limits(journal_inline_bytes=10)
    for request in base.script(67)[:-1]:
        assert world.worker(limits=small).do(request)[0] == 200
    world.objects.delete([stat.key for stat in world.objects.list("v1/") if "/j/" in stat.key])
    assert world.worker().do(FINISH) == (409, b"")


def _rewrite(world, session, entries=None, revision=None):
    """Put another session in the record's place."""
    head = world.head()
    session = replace(session, journal=entries or session.journal)
    session = replace(session, merge_revision=revision or session.merge_revision)
    world.heads._change(COLLECTION, lambda _: replace(head, session=session))


def test_a_worker_that_knows_an_older_record_does_not_refuse_by_it(new_world, base):
    """The second worker was told of a notetype; what the first one knows of the sync lacks it."""
    world = new_world()
    first, second = world.worker(), world.worker()
    notetype = base.notetype | {"id": 1_900_000_000_555, "name": "only just made"}
    note, card = base.new_note(1)
    note[2] = notetype["id"]
    assert first.do(("start", {"minUsn": 3, "lnewer": False}))[0] == 200
    changes = {"models": [notetype], "decks": [[], []], "tags": []}
    assert second.do(("applyChanges", {"changes": changes}))[0] == 200
    rows = {"cards": [card], "notes": [note], "revlog": []}
    assert first.do(("applyChunk", {"chunk": rows}))[0] == 200
    assert first.do(FINISH)[0] == 200
    assert any(row[0] == note[0] for row in world.committed()["notes"])


def test_a_worker_that_knows_an_earlier_sync_of_the_same_key_does_not_answer_for_it(new_world, base):
    """A finish that another worker has done must not be taken for that of the next sync."""
    world = new_world()
    first, second = world.worker(), world.worker()
    one, other = (script for _, script in scripts_of(base, 0, 2))
    for request in one:
        first.do(request, "key")
    assert second.do(FINISH, "key")[0] == 200  # the first worker still knows the prepared commit
    for request in other:
        second.do(request, "key")
    assert first.do(FINISH, "key")[0] == 200
    assert {row[0] for row in world.committed()["tags"]} >= {"tag0-0", "tag0-1"}
    assert world.head().version == 3
