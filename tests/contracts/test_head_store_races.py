# ruff: noqa: B023  the functions run before the loop goes on
"""Many writers at once, in threads and in processes: of those that may not both win, one does."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
import uuid

import pytest

from storage.errors import Conflict, SessionAhead
from storage.heads.base import SessionUpdate
from storage.types import EMPTY_HEAD
from tests.support.records import collection_of, head_update_of, journal_entry, new_session, snapshot

RACERS = 6
ROUNDS = 12


@pytest.fixture
def stores(head_backend):
    """A view of the one store for each racer."""
    return [head_backend.open() for _ in range(RACERS)]


def race(stores, run):
    """Run `run(store, racer)` in threads, each with a view of its own; the answers by racer."""
    barrier = threading.Barrier(RACERS)
    answers = [None] * RACERS

    def racer(number):
        barrier.wait()
        try:
            answers[number] = run(stores[number], number)
        except BaseException as exc:  # noqa: BLE001  judged by `won`
            answers[number] = exc

    threads = [threading.Thread(target=racer, args=(number,)) for number in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def won(answers):
    assert all(isinstance(answer, Conflict) for answer in answers if isinstance(answer, BaseException))
    return [number for number, answer in enumerate(answers) if not isinstance(answer, BaseException)]


def test_one_of_many_head_updates_of_one_version_wins(head_backend, stores):
    database = collection_of(f"r-{uuid.uuid4().hex}")
    store = head_backend.open()
    for base in range(ROUNDS):
        token = (store.find(database) or EMPTY_HEAD).token
        answers = race(
            stores,
            lambda view, number: view.advance_head(
                database, head_update_of(base, token, commit_id=f"{base}-{number}")
            ),
        )
        (winner,) = won(answers)
        head = store.find(database)
        assert (head.version, head.token) == (base + 1, token + 1)
        assert head.recent[-1].commit_id == f"{base}-{winner}"


def test_no_entry_of_many_that_are_appended_at_once_is_lost(head_backend, stores):
    database = collection_of(f"r-{uuid.uuid4().hex}")
    store = head_backend.open()
    store.open_session(database, new_session())
    for turn in range(ROUNDS):
        answers = race(
            stores,
            lambda view, number: view.append(
                database, "session", journal_entry(body=b"%d of %d" % (number, turn))
            ),
        )
        assert len(won(answers)) == RACERS
        session = store.find(database).session
        latest = sorted(entry.body for entry in session.journal[-RACERS:])
        assert latest == [b"%d of %d" % (number, turn) for number in range(RACERS)]
        assert session.seq == len(session.journal) == 1 + RACERS * (turn + 1)
        assert sorted(head.session.seq for head in answers) == list(range(2 + RACERS * turn, session.seq + 1))


def test_one_of_many_updates_of_one_place_wins(head_backend, stores):
    database = collection_of(f"r-{uuid.uuid4().hex}")
    store = head_backend.open()
    token = store.open_session(database, new_session()).token
    for seq in range(1, ROUNDS):
        answers = race(
            stores,
            lambda view, number: view.update_session(
                database, token, "session", seq, SessionUpdate(state=b"%d" % number)
            ),
        )
        (winner,) = won(answers)
        losers = [answer for number, answer in enumerate(answers) if number != winner]
        assert all(type(answer) is SessionAhead for answer in losers)
        session = store.find(database).session
        assert (session.seq, session.state) == (seq + 1, b"%d" % winner)


def test_one_of_many_repeats_of_a_head_update_lands_and_all_are_told_so(head_backend, stores):
    database = collection_of(f"r-{uuid.uuid4().hex}")
    store = head_backend.open()
    for base in range(ROUNDS):
        token = store.open_session(database, new_session(f"s{base}")).token
        update = head_update_of(base, token, session=f"s{base}", seq=1)
        assert len(won(race(stores, lambda view, _: view.advance_head(database, update)))) == RACERS
        assert store.find(database).version == base + 1


def test_every_one_of_many_sessions_has_a_token_of_its_own(head_backend, stores):
    database = collection_of(f"r-{uuid.uuid4().hex}")
    tokens = []
    for turn in range(ROUNDS):
        answers = race(
            stores,
            lambda view, number: view.open_session(database, new_session(f"{turn}-{number}")),
        )
        won(answers)
        tokens += [head.token for head in answers]
    assert sorted(tokens) == list(range(1, RACERS * ROUNDS + 1))


def test_a_compaction_and_a_commit_do_not_lose_each_other(head_backend, stores):
    database = collection_of(f"r-{uuid.uuid4().hex}")
    store = head_backend.open()
    head = store.advance_head(database, head_update_of(0, 0))
    for base in range(1, ROUNDS):
        chain = (snapshot(base),)

        def run(view, number, head=head, base=base, chain=chain):
            if number % 2:
                return view.replace_chain(database, head.token, head.chain_revision, chain)
            return view.advance_head(database, head_update_of(base, head.token, commit_id=f"{base}-{number}"))

        winners = won(race(stores, run))
        head = store.find(database)
        assert [number % 2 for number in winners].count(0) == 1
        assert head.version == base + 1
        assert head.chain[-1].last == base + 1


def _count_up(spec, user, versions, results):
    """One process: sessions, entries and commits against the others until each round is made."""
    store = spec()
    database = collection_of(user)
    mine = 0
    while (head := store.find(database) or EMPTY_HEAD).version < versions:
        name = uuid.uuid4().hex
        try:
            token = store.open_session(database, new_session(name)).token
            store.append(database, name, journal_entry())
            base = store.find(database).version
            store.advance_head(database, head_update_of(base, token, session=name, seq=2))
            mine += 1
        except Conflict:
            # Each start takes over from the others: in step with one another none would ever finish.
            time.sleep(random.uniform(0, 0.1))
    results.put((mine, head.version))


def test_processes_that_race_commit_each_version_once(shared_heads):
    user = f"p-{uuid.uuid4().hex}"
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = (shared_heads.spec(), user, 12 if shared_heads.WIRED else 40, results)
    processes = [context.Process(target=_count_up, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    counts = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=30)
    head = shared_heads.open().find(collection_of(user))
    assert sum(mine for mine, _ in counts) == head.version
    assert head.token >= head.version
