"""One sync on many workers: whichever answers a request, the client and the store see the same."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from app.sync import journal
from app.sync.state import SyncState
from storage.collection.collection import Collection
from storage.errors import NotFound
from tests.app.sync.scripts import open_file
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
    """Every request finds the other worker's work in the journal."""
    for seed in range(5):
        script = base.script(seed)
        world = new_world()
        assert (serve(alternating(world), script), world.committed()) == expected(new_world, script)


def test_workers_at_random_answer_as_one_does(new_world, base):
    """Some requests find their sync at hand, but behind."""
    for seed in range(10, 20):
        script = base.script(seed)
        world = new_world()
        assert (serve(at_random(world, seed), script), world.committed()) == expected(new_world, script)


def test_a_request_is_replayed_once_by_each_worker_that_serves_its_sync(new_world, base, monkeypatch):
    """Whatever the number of requests: a worker replays what it has missed, and not the whole journal.

    Each worker finds out once that it does not serve the sync alone, and begins anew then.
    """
    replayed = []
    take_step = journal.take_step
    monkeypatch.setattr(journal, "take_step", lambda *step: (replayed.append(step[0]), take_step(*step))[1])
    chunk = ("applyChunk", {"chunk": {"done": False}})
    start, *rest = base.script(3)
    script = [start, *[chunk] * 30, *rest]
    world = new_world()
    answers = serve(alternating(world), script)
    assert [status for status, _ in answers] == [200] * len(answers)
    assert len(script) / 2 < len(replayed) <= len(script) + 4


def test_a_worker_killed_between_any_two_requests_is_not_missed(new_world, base):
    """Each request is served by a worker that has never heard of the sync."""
    script = base.script(21)
    world = new_world()
    assert (serve(always_new(world), script), world.committed()) == expected(new_world, script)


def test_workers_at_random_serve_several_syncs_one_after_the_other(new_world, base):
    """Idle copies of one version must not be taken for another's."""
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


def test_a_journal_cut_anywhere_replays_to_the_same_state(new_world, base, codec, tmp_path):
    """The answers are those given at first; what they leave in the tables is too."""
    world = new_world()
    worker = world.worker()
    script = base.script(50)
    states = []
    for request in script[:-1]:
        assert worker.do(request)[0] == 200
        states.append(_contents(_live(worker).state.collection))
    session = world.head().session
    entries = [(entry, worker.store.read_body(COLLECTION, entry)) for entry in session.journal]
    for length, contents in enumerate(states, 1):
        connection = open_file(base.path)
        connection.execute("BEGIN")
        collection = Collection(connection, codec, base.stamps)
        journal.replay(entries[:length], SyncState(collection))
        assert _contents(collection) == contents
        connection.execute("ROLLBACK")
        connection.close()


def test_a_replay_that_answers_otherwise_ends_the_sync(new_world, base, caplog):
    """It is a bug, or two revisions of the server: nothing may be committed then."""
    world = new_world()
    script = base.script(51)
    for request in script[:-1]:
        assert world.worker().do(request)[0] == 200
    session = world.head().session
    spoilt = replace(session.journal[1], answer_digest=b"x" * 16)
    _rewrite(world, session, (session.journal[0], spoilt, *session.journal[2:]))
    assert world.worker().do(FINISH) == (409, b"")
    assert world.head().session is None
    assert world.head().version == 1
    assert "replay differs" in caplog.text


def test_another_revision_of_the_merge_is_not_mixed_in(new_world, base):
    """During a rolling update the client starts anew."""
    world = new_world()
    assert world.worker().do(base.script(52)[0])[0] == 200
    _rewrite(world, world.head().session, revision=journal.MERGE_REVISION + 1)
    assert world.worker().do(FINISH) == (409, b"")


def test_a_store_that_is_away_before_the_append_leaves_the_sync_as_it_was(new_world, base):
    """The client that tries again is served, by this worker or another."""
    _try_again(new_world, base, "append", landed=False)


def test_a_lost_reply_of_the_append_is_made_good(new_world, base):
    """The request is in the journal: asked again it is not done twice."""
    _try_again(new_world, base, "append", landed=True)


def _try_again(new_world, base, method, *, landed):
    script = [request for request in base.script(60) if request[0] != "chunk"]
    answers, stored = expected(new_world, script)
    for number in range(1, len(script) - 1):
        world, faults = new_world(), Faults()
        worker, other = world.worker(faults), world.worker()
        for request in script[:number]:
            assert worker.do(request)[0] == 200
        faults.fail_next(method, landed=landed)
        assert worker.do(script[number])[0] == 503
        again = other if number % 2 else worker
        assert [again.do(request) for request in [*script[number:], FINISH]] == answers[number:]
        assert world.committed() == stored


def test_a_lost_reply_of_the_flip_is_made_good(new_world, base):
    """The commit is there, so the client hears of it."""
    script = base.script(61)
    answers, stored = expected(new_world, script)
    world, faults = new_world(), Faults()
    worker = world.worker(faults)
    for request in script:
        assert worker.do(request)[0] == 200
    faults.fail_next("flip", landed=True)
    assert worker.do(FINISH) == answers[-1]
    assert world.committed() == stored


def test_a_flip_that_did_not_land_can_be_tried_again(new_world, base):
    """The journal still has the whole sync."""
    script = base.script(62)
    answers, stored = expected(new_world, script)
    world, faults = new_world(), Faults()
    worker = world.worker(faults)
    for request in script:
        assert worker.do(request)[0] == 200
    faults.fail_next("flip", landed=False)
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


def test_a_sync_that_two_workers_serve_at_once_goes_on(new_world, base):
    """A worker that finds itself behind catches up, also when it happens amid a request."""
    world, faults = new_world(), Faults()
    worker, other = world.worker(faults), world.worker()
    script = base.script(64)
    for request in script[:2]:
        assert worker.do(request)[0] == 200
    between = iter([("chunk", {})])

    def overtake(call):
        if call.method == "append":
            for request in between:
                assert other.do(request)[0] == 200

    faults.watch = overtake
    assert worker.do(("chunk", {}))[0] == 200
    assert world.head().session.seq == 4
    for request in [*script[2:], FINISH]:
        assert worker.do(request)[0] == 200


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
        if call.method == "flip":
            for request in others:
                assert other.do(request, "other")[0] == 200

    faults.watch = overtake
    assert worker.do(start)[0] == 200
    assert worker.do(FINISH)[0] == 200
    assert empty_world.head().version == 3


def test_a_step_that_fails_by_a_fault_of_ours_is_not_journalled(new_world, base, monkeypatch):
    """The sync goes on from the request before."""
    script = base.script(66)
    answers, stored = expected(new_world, script)
    world = new_world()
    worker = world.worker()
    assert [worker.do(request) for request in script[:2]] == answers[:2]
    with monkeypatch.context() as patch:
        patch.setattr(Collection, "apply_changes", lambda *_: 1 / 0)
        changes = next(request for request in script if request[0] == "applyChanges")
        with pytest.raises(ZeroDivisionError):
            worker.do(changes)
    assert [worker.do(request) for request in [*script[2:], FINISH]] == answers[2:]
    assert world.committed() == stored


def test_a_sync_whose_journal_lost_a_body_is_a_conflict(new_world, base, monkeypatch):
    """It was ended and swept while this worker read it."""
    world, faults = new_world(), Faults()
    for request in base.script(67)[:2]:
        assert world.worker().do(request)[0] == 200
    worker = world.worker(faults)
    monkeypatch.setattr(worker.store, "read_body", _raise_not_found)
    assert worker.do(FINISH) == (409, b"")


def _raise_not_found(*_):
    raise NotFound("a body")


def _live(worker):
    slot = next(iter(worker.service._slots._slots.values()))
    return slot.live


def _contents(collection):
    connection = collection._connection
    tables = (
        "cards",
        "notes",
        "revlog",
        "graves",
        "decks",
        "deck_config",
        "config",
        "tags",
        "notetypes",
        "col",
    )
    return {
        table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in tables
    }


def _rewrite(world, session, entries=None, revision=None):
    """Put another session in the record's place."""
    head = world.head()
    session = replace(session, journal=entries or session.journal)
    session = replace(session, merge_revision=revision or session.merge_revision)
    world.heads._change(COLLECTION, lambda _: replace(head, session=session))


def test_a_worker_that_lacks_what_another_was_told_catches_up_before_it_refuses(new_world, base):
    """The second worker learnt of a notetype; the first one has the sync at hand, but without it."""
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
