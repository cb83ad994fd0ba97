"""The life of a sync on one worker: who owns it, what ends it, and what stays as it was."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from app.sync import chunks
from tests.app.sync.scripts import USN, body_of
from tests.app.sync.workers import COLLECTION
from tests.support.faults import Faults

META = {"v": 11, "cv": "x"}


def run(worker, requests, skey="s1"):
    """Send the requests of a script, all of which succeed; the answers."""
    answers = []
    for request in requests:
        status, answer = worker.do(request, skey)
        assert status == 200, request[0]
        answers.append(answer)
    return answers


def test_a_whole_sync_is_committed_by_finish(world, base):
    """Until then nothing of it is seen."""
    worker = world.worker()
    before = worker.ask("meta", META)
    *_, sanity = run(worker, base.script(1))
    assert b'"status":"ok"' in sanity
    assert worker.ask("meta", META) == before
    now_ms = worker.ask("finish")
    after = worker.ask("meta", META)
    assert (after["mod"], after["usn"]) == (now_ms, USN + 1)
    assert [row for row in world.committed()["tags"] if row[0] == "seed1"] != []


def test_a_device_that_is_up_to_date_opens_the_database_once(world, base):
    """The usual sync: nothing is new for the client, and it brings reviews."""
    faults = Faults()
    worker = world.worker(faults)
    run(worker, [("start", {"minUsn": 0, "lnewer": True})])
    worker.ask("finish")
    start, *rest = base.script(1, client_usn=USN + 1)
    opened = []
    checkout = worker.store.checkout
    worker.service._sessions.store.checkout = lambda *args: opened.append(args) or checkout(*args)
    if not start[1]["lnewer"]:
        rest = [request for request in rest if request[0] != "applyChanges"]
    run(worker, [start, *rest[:-1]])
    assert opened == []
    worker.ask("finish")
    assert len(opened) == 1


def test_a_new_user_can_sync_without_an_upload(empty_world):
    """The first start makes an empty collection."""
    worker = empty_world.worker()
    assert worker.ask("meta", META)["empty"] is True
    run(worker, [("start", {"minUsn": 0, "lnewer": False})])
    assert worker.ask("chunk") == {"done": True}
    worker.ask("finish")
    assert empty_world.head().version == 2
    assert list(worker.scratch.iterdir()) == []


def test_a_second_start_takes_the_sync_over(world, base):
    """The first client gets 409 from then on, and nothing of its changes is kept."""
    worker = world.worker()
    first, second = base.script(1), base.script(2)
    run(worker, first, "first")
    run(worker, second[:1], "second")
    assert worker.do(("finish", {}), "first") == (409, b"")
    run(worker, second[1:], "second")
    worker.ask("finish", skey="second")
    tags = {row[0] for row in world.committed()["tags"]}
    assert "seed2" in tags
    assert "seed1" not in tags


def test_a_start_without_a_session_key_is_refused(world):
    """There would be nothing to tell the next request's sync by."""
    worker = world.worker()
    assert worker.post("start", body_of({"minUsn": 0, "lnewer": True}), skey="")[0] == 400
    assert world.head().session is None


@pytest.mark.parametrize(
    "method", ["applyGraves", "applyChanges", "chunk", "applyChunk", "sanityCheck2", "finish"]
)
def test_a_request_without_a_sync_is_a_conflict(world, base, method):
    """Whatever it is."""
    messages = dict(base.script(1)) | {"finish": {}}
    assert world.worker().do((method, messages[method])) == (409, b"")


def test_json_that_cannot_be_read_leaves_the_sync_running(world, base):
    """Clients send none, but a proxy may have cut one short."""
    worker = world.worker()
    script = base.script(3)
    run(worker, script[:2])
    for method in ("applyChanges", "applyChunk", "chunk", "finish", "start", "sanityCheck2", "abort"):
        assert worker.post(method, b'{"x') == (400, b"")
    run(worker, script[2:])
    assert worker.do(("finish", {}))[0] == 200


def test_a_note_without_its_notetype_ends_the_sync(world, base):
    """The client must check its database; nothing is kept."""
    worker = world.worker()
    before = world.committed()
    run(worker, base.script(4)[:-1])
    note, card = base.new_note(99)
    note[2] = 12345
    assert worker.ask("applyChunk", {"chunk": {"notes": [note], "cards": [card]}}) is None
    assert worker.do(("sanityCheck2", {"client": base.counts()})) == (400, b"")
    assert world.head().session is None
    assert worker.do(("finish", {})) == (409, b"")
    assert world.committed() == before


def test_a_sync_without_a_sanity_check_is_merged_by_finish(world, base):
    """And a message that cannot be applied is refused there."""
    worker = world.worker()
    run(worker, base.script(4)[:-1])
    assert world.head().session.prepared is None
    worker.ask("finish")
    assert ("seed4" in {row[0] for row in world.committed()["tags"]}) is True
    run(worker, base.script(5, client_usn=USN)[:-1])
    note, card = base.new_note(99)
    note[2] = 12345
    worker.ask("applyChunk", {"chunk": {"notes": [note], "cards": [card]}})
    assert worker.do(("finish", {})) == (400, b"")
    assert worker.do(("finish", {})) == (409, b"")


def test_old_clients_send_their_deletions_with_the_start(world, base):
    """They are told of ours, and theirs are merged and not sent back."""
    worker = world.worker()
    gone = base.cards[1][0]
    graves = {"cards": [str(gone)], "notes": [], "decks": []}
    answer = worker.ask("start", {"minUsn": 0, "lnewer": True, "graves": graves})
    assert answer == {"cards": [124], "decks": [125], "notes": [123]}
    rows = worker.ask("chunk")["cards"]
    assert gone not in {row[0] for row in rows}
    worker.ask("finish")
    assert gone not in {row[0] for row in world.committed()["cards"]}


def test_what_the_client_has_just_deleted_is_not_sent_back(world, base):
    """Rows of every kind that can be deleted."""
    worker = world.worker()
    card, note, deck = base.cards[3][0], base.notes[5][0], base.decks[-1]["id"]
    run(worker, [("start", {"minUsn": 0, "lnewer": True})])
    worker.ask("applyGraves", {"chunk": {"cards": [card], "notes": [note], "decks": [deck]}})
    changes = worker.ask("applyChanges", {"changes": {"models": [], "decks": [[], []], "tags": []}})
    assert deck not in {one["id"] for one in changes["decks"][0]}
    assert len(changes["decks"][0]) == len(base.decks) - 1
    rows = worker.ask("chunk")
    assert card not in {row[0] for row in rows["cards"]}
    assert note not in {row[0] for row in rows["notes"]}


def test_a_repeated_sanity_check_gets_the_same_answer(world, base):
    """Its reply may have been lost; nothing is merged twice."""
    worker = world.worker()
    *script, check = base.script(5)
    run(worker, script)
    answer = worker.do(check)
    prepared = world.head().session.prepared
    assert worker.do(check) == world.worker().do(check) == answer
    assert world.head().session.prepared == prepared
    worker.ask("finish")


def test_rows_that_come_after_the_sanity_check_are_checked_anew(world, base):
    """The prepared commit lacks them."""
    worker = world.worker()
    *script, check = base.script(5)
    run(worker, [*script, check])
    note, card = base.new_note(77)
    worker.ask("applyChunk", {"chunk": {"notes": [note], "cards": [card]}})
    assert world.head().session.prepared is None
    worker.ask("finish")
    assert note[0] in {row[0] for row in world.committed()["notes"]}


def test_a_head_without_the_highest_usn_is_read_the_slow_way(world, base):
    """As records of version 0.1 are."""
    head = world.head()
    stamps = {name: value for name, value in head.stamps.items() if name != "newest"}
    world.heads._change(COLLECTION, lambda _: replace(head, stamps=stamps))
    worker = world.worker()
    run(worker, base.script(1))
    worker.ask("finish")
    assert world.head().stamps["newest"] == USN


def test_a_client_that_knows_nothing_is_sent_everything(world, base):
    """Whatever USN it claims."""
    worker = world.worker()
    for usn in (0, -5):
        run(worker, [("start", {"minUsn": usn, "lnewer": True})])
        answer = worker.ask("chunk")
        assert len(answer["cards"]) == len(base.cards)
    run(worker, [("start", {"minUsn": USN + 1, "lnewer": True})])
    assert worker.ask("chunk") == {"done": True}


def test_a_failed_sanity_check_ends_the_sync_and_leaves_the_usn(world, base):
    """The official server raises the USN in the finish that follows."""
    worker = world.worker()
    *script, (method, message) = base.script(5)
    run(worker, script)
    message["client"][1] += 1
    answer = worker.ask(method, message)
    assert answer["status"] == "bad"
    assert answer["s"][1] + 1 == answer["c"][1]
    assert worker.do(("finish", {})) == (409, b"")
    assert worker.ask("meta", META)["usn"] == USN
    assert world.head().version == 1


def test_a_row_with_usn_minus_one_fails_the_sanity_check(world, base):
    """The server then cannot tell its own counts."""
    worker = world.worker()
    run(worker, base.script(6)[:-1])
    _, card = base.new_note(50, usn=-1)
    worker.ask("applyChunk", {"chunk": {"cards": [card]}})
    counts = base.counts()
    assert worker.ask("sanityCheck2", {"client": counts}) == {"status": "bad", "c": counts, "s": None}


def test_abort_by_a_stranger_leaves_the_sync_running(world, base):
    """The official server ends whichever sync there is."""
    worker = world.worker()
    script = base.script(7)
    run(worker, script[:3])
    assert worker.ask("abort", skey="stranger") is None
    assert worker.ask("abort", skey="") is None
    run(worker, script[3:])
    assert worker.do(("finish", {}))[0] == 200


def test_abort_ends_the_callers_sync(world, base):
    """At once, on whichever worker it arrives; without a sync it does nothing."""
    before = world.committed()
    worker, other = world.worker(), world.worker()
    for aborting in (worker, other):
        run(worker, base.script(8))
        assert aborting.ask("abort") is None
        assert world.head().session is None
        assert worker.do(("finish", {})) == (409, b"")
        assert aborting.ask("abort") is None
    assert world.committed() == before


def test_finish_asked_again_gives_the_same_answer(world, base):
    """Its reply may have been lost on the way; a key that was never used gets nothing."""
    worker = world.worker()
    run(worker, base.script(9))
    answer = worker.ask("finish")
    world.clock.now_ms += 5000
    assert world.worker().ask("finish") == answer
    assert worker.ask("finish") == answer
    assert worker.do(("finish", {}), "another") == (409, b"")


def test_a_key_used_twice_names_two_syncs(world, base):
    """The second one's finish commits; it is not taken for a repetition of the first."""
    worker = world.worker()
    run(worker, base.script(10))
    first = worker.ask("finish")
    run(worker, base.script(11, client_usn=USN)[:1])
    assert worker.do(("abort", {}))[0] == 200
    assert worker.do(("finish", {})) == (409, b"")
    run(worker, [("start", {"minUsn": USN + 1, "lnewer": False})])
    assert worker.ask("finish") > first
    assert worker.ask("meta", META)["usn"] == USN + 2


def test_mod_grows_even_when_the_clock_went_back(world, base):
    """Two states must not have the same mod, or a client takes them for one."""
    worker = world.worker()
    world.clock.now_ms = base.stamps["mod"] - 1_000_000
    run(worker, base.script(12)[:1])
    assert worker.ask("finish") == base.stamps["mod"] + 1


def test_meta_leaves_a_running_sync_alone(world, base):
    """One device's check need not end another's sync."""
    worker = world.worker()
    script = base.script(13)
    run(worker, script[:2])
    worker.ask("meta", META, skey="other")
    run(worker, script[2:])


def test_a_collection_over_the_limit_claims_another_schema(world):
    """Which forces its clients to a one-way sync."""
    worker = world.worker(collection_bytes=1000)
    assert worker.ask("meta", META)["scm"] == world.clock.now_ms


def test_chunks_give_each_row_once_and_the_last_one_again_if_asked(world, base, monkeypatch):
    """A batch of 250 rows at a time, one of each kind in turn. That the last was given is not noted."""
    monkeypatch.setattr(chunks, "CHUNK_BATCHES", 1)
    worker = world.worker()
    run(worker, base.script(1)[:1])
    answers = [worker.ask("chunk") for _ in range(3)]
    assert [answer["done"] for answer in answers] == [False, True, True]
    assert answers[1] == answers[2]
    ids = [row[0] for answer in answers[:2] for row in answer.get("cards", [])]
    assert sorted(ids) == [row[0] for row in base.cards if row[5] >= 3]


def test_a_chunk_holds_several_batches(world, base):
    """Which saves the client round trips; the rows and their order are those of the batches."""
    answers = {}
    for most in (1, 4):
        worker = world.worker()
        skey = f"{most} batches"
        run(worker, [("start", {"minUsn": 0, "lnewer": True})], skey)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunks, "CHUNK_BATCHES", most)
            answers[most] = [worker.ask("chunk", skey=skey)]
            while not answers[most][-1]["done"]:
                answers[most].append(worker.ask("chunk", skey=skey))
    assert [answer["done"] for answer in answers[1]] == [False, False, True]
    assert [answer["done"] for answer in answers[4]] == [True]
    for kind in ("revlog", "cards", "notes"):
        batches = [row for answer in answers[1] for row in answer.get(kind, [])]
        assert answers[4][0][kind] == batches


def test_a_chunk_of_long_notes_stops_early(world, base, monkeypatch):
    """An answer must not grow without bound."""
    monkeypatch.setattr(chunks, "CHUNK_CHARACTERS", 100)
    worker = world.worker()
    run(worker, [("start", {"minUsn": 0, "lnewer": True})])
    assert [worker.ask("chunk")["done"] for _ in range(3)] == [False, False, True]
