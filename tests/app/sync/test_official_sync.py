"""Whole syncs, message by message: ours answers and stores what the official server does."""

from __future__ import annotations

import json
import time

import pytest

from app.sync import chunks
from tests.app.sync.scripts import NOTES, NOW_S, dump

FINISH = ("finish", {})


@pytest.fixture(autouse=True)
def _official_chunks(monkeypatch):
    """Of one batch each, so that the answers can be compared one by one."""
    monkeypatch.setattr(chunks, "CHUNK_BATCHES", 1)


@pytest.fixture(scope="module")
def referee(official, base):
    """Gives the official server `base` and answers requests."""

    class Referee:
        def begin(self):
            status, answer = official.post("upload", base.path.read_bytes())
            assert (status, answer) == (200, b"OK")

        def do(self, request, skey="s1"):
            method, message = request
            return official.post(method, json.dumps(message).encode(), skey)

        def committed(self, path):
            path.write_bytes(official.post("download", b"{}")[1])
            return dump(path)

    return Referee()


def same(method, ours, theirs):
    """Whether two answers are alike but for the time of the finish."""
    if ours[0] != 200 or theirs[0] != 200:
        return ours[0] == theirs[0]
    left, right = json.loads(ours[1]), json.loads(theirs[1])
    if method == "finish":
        return isinstance(left, int) and isinstance(right, int)
    return left == right


def comparable(tables):
    """Without what depends on the time of day."""
    (id_, crt, _mod, scm, ver, dty, usn, _ls, *rest) = tables["col"][0]
    config = [(key, usn_, bytes(value)) for key, usn_, _mtime, value in tables["config"]]
    return tables | {"col": [(id_, crt, scm, ver, dty, usn, *rest)], "config": sorted(config)}


def compare(world, referee, requests, tmp_path):
    """Send all to both; the answers must be alike, and so must the tables in the end."""
    referee.begin()
    world.clock.now_ms = int(time.time() * 1000)  # the official server has no other clock
    worker = world.worker()
    is_done = False
    for number, (method, message) in enumerate(requests):
        if method == "chunk" and is_done:
            continue  # no client asks on: the official server then says `done`, ours the last rows again
        ours, theirs = worker.do((method, message)), referee.do((method, message))
        assert same(method, ours, theirs), (number, method, ours, theirs)
        is_done = method != "start" and (is_done or (method == "chunk" and b'"done":true' in ours[1]))
    ours = comparable(world.committed())
    theirs = comparable(referee.committed(tmp_path / "theirs.anki2"))
    theirs["col"] = ours["col"]  # the download has moved the USN on
    assert {table: rows for table, rows in ours.items() if rows != theirs[table]} == {}


@pytest.mark.parametrize("seed", range(12))
def test_a_sync_is_answered_and_stored_as_by_the_official_server(world, referee, base, tmp_path, seed):
    """From the start to the finish."""
    compare(world, referee, [*base.script(seed), FINISH], tmp_path)


def test_two_syncs_one_after_the_other_are_too(world, referee, base, tmp_path):
    """The second client is told of what the first one has changed."""
    requests = [*base.script(1), FINISH, ("start", {"minUsn": 6, "lnewer": False})]
    empty = {"changes": {"models": [], "decks": [[], []], "tags": []}}
    requests += [("applyChanges", empty), ("chunk", {}), ("chunk", {}), FINISH]
    compare(world, referee, requests, tmp_path)


def test_a_sync_that_the_client_aborts_leaves_nothing(world, referee, base, tmp_path):
    """And what follows the abort is a conflict."""
    compare(world, referee, [*base.script(2), ("abort", {}), FINISH, ("chunk", {})], tmp_path)


def test_graves_of_old_clients_are_taken_with_the_start(world, referee, base, tmp_path):
    """AnkiDroid sends numbers, old AnkiMobile sent strings."""
    for kind in (int, str):
        graves = {"cards": [kind(base.cards[0][0])], "notes": [kind(base.notes[0][0])], "decks": []}
        counts = base.counts(cards=-1, notes=-1)
        script = [
            ("start", {"minUsn": 3, "lnewer": True, "graves": graves}),
            ("sanityCheck2", {"client": counts}),
        ]
        compare(world, referee, [*script, ("abort", {})], tmp_path)


def test_rows_with_floats_are_stored_alike(world, referee, base, tmp_path):
    """Old clients send them for times and intervals."""
    row = [*base.cards[1]]
    row[4], row[8], row[9], row[14] = NOW_S + 0.5, 7.9, 3.2, -0.5
    revlog = [NOW_S * 1000 + 5, row[0], 6, 3, 1.5, -2.5, 2500.9, 1e10, None]
    message = {"chunk": {"cards": [row], "revlog": [revlog, revlog[:8]]}}
    compare(
        world, referee, [("start", {"minUsn": 3, "lnewer": True}), ("applyChunk", message), FINISH], tmp_path
    )


def test_a_note_without_its_notetype_ends_the_sync_on_both(world, referee, base, tmp_path):
    """With 400, and 409 for what follows: there when it comes, here when it is merged."""
    note, card = base.new_note(1)
    note[2] = 5
    start = ("start", {"minUsn": 3, "lnewer": True})
    chunk = ("applyChunk", {"chunk": {"notes": [note], "cards": [card]}})
    check = ("sanityCheck2", {"client": base.counts(notes=1, cards=1)})
    referee.begin()
    worker, before = world.worker(), world.committed()
    assert [worker.do(request)[0] for request in (start, chunk, check, FINISH)] == [200, 200, 400, 409]
    assert [referee.do(request)[0] for request in (start, chunk, check, FINISH)] == [200, 400, 409, 409]
    theirs = referee.committed(tmp_path / "theirs.anki2")
    assert world.committed() == before
    assert theirs["notes"] == before["notes"]


@pytest.mark.parametrize("table", range(1, 8))
def test_a_wrong_count_is_bad_on_both(world, referee, base, tmp_path, table):
    """But for the graves, which old clients count otherwise."""
    counts = base.counts()
    counts[table] += 1
    start = ("start", {"minUsn": 3, "lnewer": True})
    compare(world, referee, [start, ("sanityCheck2", {"client": counts}), ("abort", {})], tmp_path)


def test_a_client_that_has_nothing_is_sent_everything(world, referee, tmp_path):
    """As after its USN was lost; the chunks come to an end."""
    chunks = [("chunk", {})] * (2 * NOTES // 250 + 4)
    empty = {"changes": {"models": [], "decks": [[], []], "tags": []}}
    requests = [("start", {"minUsn": 0, "lnewer": False}), ("applyChanges", empty), *chunks, FINISH]
    compare(world, referee, requests, tmp_path)
