"""The protocol of heads and objects as a small model, searched through breadth first.

Clients sync and upload by way of any worker, and compaction and sweep run beside them, one store call at a
time, in every order. Any activity may end at any step (it just never moves again), requests are delivered a
second time and late, and the reply of a write may get lost. Without any one of the guards the search must
find a fault: that proves that the guard is needed and that the search sees it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.thorough  # the model alone: it changes with nothing but itself
GUARDS = (
    "append: session",
    "append: clears the prepared commit",
    "merge: a message that comes twice in a row is one",
    "prepare: token and session",
    "prepare: sequence number",
    "head update: base version",
    "head update: token and session",
    "head update: sequence number",
    "finish: look for the commit id among the recent ones",
    "upload: history before the head update",
    "compact: token",
    "compact: chain revision",
    "compact: history before the head update",
    "sweep: only tokens below the head's",
    "sweep: keep what the head names",
    "sweep: keep what history names",
    "sweep: read history after the head",
)


class Entry(NamedTuple):
    """An object of a chain; `commits` are the messages and uploads it carries, in order."""

    name: str
    first: int
    last: int
    commits: tuple[str, ...]
    token: int


Chain = tuple[Entry, ...]


class Session(NamedTuple):
    id: str
    seq: int = 0
    journal: tuple[str, ...] = ()
    prepared: Entry | None = None


class Head(NamedTuple):
    version: int
    token: int
    revision: int
    chain: Chain
    session: Session | None = None
    recent: tuple[tuple[str, int], ...] = ()
    """Session and token of each sync that was committed."""


class Worker(NamedTuple):
    """An activity: a client with whichever workers serve it, a single late request, or maintenance."""

    name: str
    script: str
    step: int = 0
    seen: Head | None = None
    made: Entry | None = None
    token: int = 0
    """That the sync was begun with."""
    sent: tuple[str, ...] = ()
    """Messages that were answered."""
    listed: frozenset[Entry] = frozenset()
    kept: frozenset[str] = frozenset()


class State(NamedTuple):
    head: Head
    objects: frozenset[Entry]
    history: frozenset[Chain]
    workers: tuple[Worker, ...]
    told_done: frozenset[str] = frozenset()
    told_failed: frozenset[str] = frozenset()
    """Messages of syncs that cannot be committed any more, as the client knows."""
    losses: int = 1
    """Replies that may still get lost."""


Moves = Iterator[tuple[State, Worker]]
START = (Entry("snapshot", 1, 1, ("genesis",), -1), Entry("delta", 2, 2, ("old",), 0))
OVER = 20


def commits_of(chain: Chain) -> list[str]:
    return [commit for entry in chain for commit in entry.commits]


def find_fault(state: State) -> str:
    """What must never be, or an empty string."""
    commits = set(commits_of(state.head.chain))
    if not state.told_done <= commits:
        return "an acknowledged change is lost"
    if state.told_failed & commits:
        return "a change that was refused is in"
    return find_fault_of_stores(state.head, state.objects, state.history)


@cache
def find_fault_of_stores(head: Head, objects: frozenset[Entry], history: frozenset[Chain]) -> str:
    names = {entry.name for entry in objects}
    session = head.session or Session("")
    commits = commits_of(head.chain)
    leads = all(b.first <= a.last + 1 <= b.last for a, b in itertools.pairwise(head.chain))
    rebuilt = {
        entry.last
        for chain in {*history, head.chain}
        for at, entry in enumerate(chain)
        if all(part.name in names for part in chain[: at + 1])
    }
    prepared = session.prepared
    faults = {
        "the chain does not lead to the version": not leads or head.chain[-1].last != head.version,
        "an object of the chain is gone": not all(entry.name in names for entry in head.chain),
        "the object of a prepared commit is gone": prepared is not None and prepared.name not in names,
        "a change is in twice": len(commits) != len(set(commits)),
        "a version cannot be brought back": rebuilt < set(range(1, head.version + 1)),
        "a journal has another session's message": any(m[0] != session.id for m in session.journal),
    }
    return next((fault for fault, found in faults.items() if found), "")


class Model:
    """What each step of each script does to the stores."""

    def __init__(self, missing: str | None) -> None:
        self.missing = missing

    def has(self, guard: str) -> bool:
        assert guard in GUARDS
        return guard != self.missing

    def moves(self, state: State) -> Iterator[State]:
        for at, worker in enumerate(state.workers):
            step = getattr(self, f"{worker.script}_{worker.step}", None)
            for new, after in step(state, worker) if step else ():
                yield new._replace(workers=(*state.workers[:at], after, *state.workers[at + 1 :]))

    # A sync: two messages, the sanity check, the end.

    def sync_0(self, state: State, worker: Worker) -> Moves:
        yield start(state, worker)

    def sync_1(self, state: State, worker: Worker) -> Moves:
        yield from self.append(state, worker, f"{worker.name}1", then=2)

    def sync_2(self, state: State, worker: Worker) -> Moves:
        yield from self.append(state, worker, f"{worker.name}2", then=3)

    def sync_3(self, state: State, worker: Worker) -> Moves:
        yield self.look_at(state, worker)

    def sync_4(self, state: State, worker: Worker) -> Moves:
        yield put(state, worker, self.merged(worker))

    def sync_5(self, state: State, worker: Worker) -> Moves:
        yield from self.prepare(state, worker, then=6, again=3)

    def sync_6(self, state: State, worker: Worker) -> Moves:
        yield self.begin_finish(state, worker, update=7, merge=OVER)

    def sync_7(self, state: State, worker: Worker) -> Moves:
        yield from self.advance_session(state, worker, again=6)

    # One that sends a message after the sanity check, and may be given up at its end.

    def late_0(self, state: State, worker: Worker) -> Moves:
        yield start(state, worker)

    def late_1(self, state: State, worker: Worker) -> Moves:
        yield from self.append(state, worker, f"{worker.name}1", then=2)

    def late_2(self, state: State, worker: Worker) -> Moves:
        state, worker = self.look_at(state, worker)
        yield (state, worker) if worker.step == OVER else put(state, worker, self.merged(worker))

    def late_4(self, state: State, worker: Worker) -> Moves:
        yield from self.prepare(state, worker, then=5, again=2)

    def late_5(self, state: State, worker: Worker) -> Moves:
        """It sends this message and `finish` at once, so one that fails does not tell that nothing is in."""
        for new, after in self.append(state, worker, f"{worker.name}2", then=6):
            yield new._replace(told_failed=state.told_failed), after

    def late_6(self, state: State, worker: Worker) -> Moves:
        yield self.begin_finish(state, worker, update=7, merge=8)
        yield self.abort(state, worker)

    def late_7(self, state: State, worker: Worker) -> Moves:
        yield from self.advance_session(state, worker, again=6)

    def late_8(self, state: State, worker: Worker) -> Moves:
        yield put(state, worker._replace(step=5), self.merged(worker))

    # A sync of another device: one message, and nothing is done twice.

    def rival_0(self, state: State, worker: Worker) -> Moves:
        yield start(state, worker)

    def rival_1(self, state: State, worker: Worker) -> Moves:
        yield from self.append(state._replace(losses=0), worker, f"{worker.name}1", then=2)

    def rival_2(self, state: State, worker: Worker) -> Moves:
        state, worker = self.look_at(state, worker)
        yield (state, worker) if worker.step == OVER else put(state, worker, self.merged(worker))

    def rival_4(self, state: State, worker: Worker) -> Moves:
        yield from self.prepare(state, worker, then=5, again=2)

    def rival_5(self, state: State, worker: Worker) -> Moves:
        yield self.begin_finish(state, worker, update=6, merge=OVER)

    def rival_6(self, state: State, worker: Worker) -> Moves:
        yield from self.advance_session(state, worker, again=5)

    # A client gives a sync up and begins another one with the same key.

    def twice_0(self, state: State, worker: Worker) -> Moves:
        yield start(state, worker)

    def twice_1(self, state: State, worker: Worker) -> Moves:
        yield from self.append(state, worker, f"{worker.name}1", then=2)

    def twice_2(self, state: State, worker: Worker) -> Moves:
        new, after = start(state, worker)
        failed = new.told_failed | {f"{worker.name}1"}
        yield new._replace(told_failed=failed), after._replace(step=3, sent=())

    def twice_3(self, state: State, worker: Worker) -> Moves:
        yield from self.append(state, worker, f"{worker.name}2", then=4)

    def twice_4(self, state: State, worker: Worker) -> Moves:
        yield self.look_at(state, worker)

    def twice_5(self, state: State, worker: Worker) -> Moves:
        yield put(state, worker, self.merged(worker))

    def twice_6(self, state: State, worker: Worker) -> Moves:
        yield from self.prepare(state, worker, then=7, again=4)

    def twice_7(self, state: State, worker: Worker) -> Moves:
        yield self.begin_finish(state, worker, update=8, merge=9)

    def twice_8(self, state: State, worker: Worker) -> Moves:
        yield from self.advance_session(state, worker, again=7)

    # Requests that were delivered twice, each to another worker, which is slow.

    def check_0(self, state: State, worker: Worker) -> Moves:
        session = state.head.session
        if session is not None and session.id == worker.name and session.journal:
            yield self.look_at(state, worker)

    def check_1(self, state: State, worker: Worker) -> Moves:
        yield put(state, worker, self.merged(worker)._replace(name=f"{worker.name} checked twice"))

    def check_2(self, state: State, worker: Worker) -> Moves:
        for new, after in self.prepare(state, worker, then=OVER, again=OVER):
            yield new._replace(told_failed=state.told_failed, losses=state.losses), after

    def finish_0(self, state: State, worker: Worker) -> Moves:
        session = state.head.session
        clients = [client for client in state.workers if client.script in {"sync", "late"}]
        is_asked = any((5 if client.script == "late" else 6) <= client.step <= 8 for client in clients)
        if is_asked and session is not None and session.prepared is not None:
            yield state, worker._replace(step=1, seen=state.head, made=session.prepared)

    def finish_1(self, state: State, worker: Worker) -> Moves:
        for new, after in self.advance_session(state, worker, again=OVER):
            yield new._replace(told_done=state.told_done, losses=state.losses), after._replace(step=OVER)

    # What the steps of syncs have in common.

    def append(self, state: State, worker: Worker, message: str, then: int) -> Moves:
        head, session = state.head, state.head.session
        if session is None or (self.has("append: session") and session.id != worker.name):
            yield fail(state, worker)
            return
        kept = None if self.has("append: clears the prepared commit") else session.prepared
        session = Session(session.id, session.seq + 1, (*session.journal, message), kept)
        new = state._replace(head=head._replace(session=session))
        yield new, worker._replace(step=then, sent=(*worker.sent, message))
        if state.losses:
            yield new._replace(losses=0), worker

    def look_at(self, state: State, worker: Worker) -> tuple[State, Worker]:
        session = state.head.session
        if session is None or session.id != worker.name:
            return fail(state, worker)
        return state, worker._replace(step=worker.step + 1, seen=state.head)

    def merged(self, worker: Worker) -> Entry:
        head = worker.seen
        journal = head.session.journal
        if self.has("merge: a message that comes twice in a row is one"):
            journal = tuple(message for message, _ in itertools.groupby(journal))
        name = f"{worker.name} {head.token} {head.session.seq} on {head.version}"
        return Entry(name, head.version + 1, head.version + 1, journal, head.token)

    def prepare(self, state: State, worker: Worker, then: int, again: int) -> Moves:
        head, seen, session = state.head, worker.seen, state.head.session
        is_ours = session is not None and (head.token, session.id) == (seen.token, worker.name)
        if session is None or (self.has("prepare: token and session") and not is_ours):
            yield fail(state, worker)
        elif self.has("prepare: sequence number") and session.seq != seen.session.seq:
            yield state, worker._replace(step=again)
        else:
            session = session._replace(seq=session.seq + 1, prepared=worker.made)
            new = state._replace(head=head._replace(session=session))
            yield new, worker._replace(step=then)
            if state.losses:
                yield new._replace(losses=0), worker._replace(step=again)

    def abort(self, state: State, worker: Worker) -> tuple[State, Worker]:
        head = state.head
        if head.session is None or head.session.id != worker.name:
            return state, worker._replace(step=OVER)
        return fail(state._replace(head=head._replace(session=None)), worker)

    def begin_finish(self, state: State, worker: Worker, update: int, merge: int) -> tuple[State, Worker]:
        """By any worker: it has nothing but the record."""
        head, session = state.head, state.head.session
        if session is not None and session.id == worker.name:
            made = session.prepared
            if made is None and worker.seen.session == session and worker.seen.version == head.version:
                made = worker.made  # merged by the finish itself
            if made is None:
                return state, worker._replace(step=merge, seen=head)
            return state, worker._replace(step=update, seen=head, made=made)
        is_in = (worker.name, head.token) in head.recent
        if is_in and self.has("finish: look for the commit id among the recent ones"):
            return done(state, worker)
        if head.token == worker.token:
            return fail(state, worker)
        return state, worker._replace(step=OVER)  # taken over before or after the commit: it may be in

    def advance_session(self, state: State, worker: Worker, again: int) -> Moves:
        head, seen, session = state.head, worker.seen, state.head.session
        allowed = not self.has("head update: base version") or head.version == seen.version
        if self.has("head update: token and session"):
            allowed &= session is not None and (head.token, session.id) == (seen.token, worker.name)
        if self.has("head update: sequence number"):
            allowed &= session is None or session.seq == seen.session.seq
        if not allowed:
            yield state, worker._replace(step=again)
            return
        recent = (*head.recent, (worker.name, seen.token))
        chain = (*head.chain, worker.made)
        new = state._replace(head=Head(head.version + 1, head.token, head.revision + 1, chain, None, recent))
        yield done(new, worker)
        if state.losses:
            yield new._replace(losses=0), worker._replace(step=again)

    # An upload: a whole file that was made from the version it saw.

    def upload_0(self, state: State, worker: Worker) -> Moves:
        yield state, worker._replace(step=1, seen=state.head)

    def upload_1(self, state: State, worker: Worker) -> Moves:
        seen = worker.seen
        commits = (*commits_of(seen.chain), worker.name)
        yield put(state, worker, Entry(worker.name, seen.version + 1, seen.version + 1, commits, seen.token))

    def upload_2(self, state: State, worker: Worker) -> Moves:
        yield record(state, worker, told=self.has("upload: history before the head update"))

    def upload_3(self, state: State, worker: Worker) -> Moves:
        head, seen = state.head, worker.seen
        if worker.name in commits_of(head.chain):  # the first reply was lost
            yield state._replace(told_done=state.told_done | {worker.name}), worker._replace(step=OVER)
            return
        allowed = not self.has("head update: base version") or head.version == seen.version
        allowed &= not self.has("head update: token and session") or head.token == seen.token
        if not allowed:
            yield state._replace(told_failed=state.told_failed | {worker.name}), worker._replace(step=OVER)
            return
        new = state._replace(
            head=Head(head.version + 1, head.token + 1, head.revision + 1, (worker.made,), None, head.recent)
        )
        yield new._replace(told_done=new.told_done | {worker.name}), worker._replace(step=OVER)
        if state.losses:
            yield new._replace(losses=0), worker

    # Compaction: everything into one snapshot of the same version.

    def compact_0(self, state: State, worker: Worker) -> Moves:
        if len(state.head.chain) > 1:
            yield state, worker._replace(step=1, seen=state.head)

    def compact_1(self, state: State, worker: Worker) -> Moves:
        seen = worker.seen
        commits = tuple(commits_of(seen.chain))
        yield put(state, worker, Entry(worker.name, seen.version, seen.version, commits, seen.token))

    def compact_2(self, state: State, worker: Worker) -> Moves:
        yield record(state, worker, told=self.has("compact: history before the head update"))

    def compact_3(self, state: State, worker: Worker) -> Moves:
        head, seen = state.head, worker.seen
        allowed = not self.has("compact: token") or head.token == seen.token
        allowed &= not self.has("compact: chain revision") or head.revision == seen.revision
        if allowed:
            head = head._replace(chain=(worker.made,), revision=head.revision + 1)
        yield state._replace(head=head), worker._replace(step=4)

    # Sweep: list, read the head, read history, delete.

    def sweep_0(self, state: State, worker: Worker) -> Moves:
        yield state, worker._replace(step=1, listed=state.objects)

    def sweep_1(self, state: State, worker: Worker) -> Moves:
        yield self.look(state, worker, at_head=self.has("sweep: read history after the head"))

    def sweep_2(self, state: State, worker: Worker) -> Moves:
        yield self.look(state, worker, at_head=not self.has("sweep: read history after the head"))

    def look(self, state: State, worker: Worker, *, at_head: bool) -> tuple[State, Worker]:
        if at_head:
            worker = worker._replace(seen=state.head)
            chains = {state.head.chain} if self.has("sweep: keep what the head names") else set()
        else:
            chains = state.history if self.has("sweep: keep what history names") else set()
        names = {entry.name for chain in chains for entry in chain}
        return state, worker._replace(step=worker.step + 1, kept=worker.kept | names)

    def sweep_3(self, state: State, worker: Worker) -> Moves:
        every = not self.has("sweep: only tokens below the head's")
        gone = {
            entry
            for entry in worker.listed
            if entry.name not in worker.kept and (every or entry.token < worker.seen.token)
        }
        yield state._replace(objects=state.objects - gone), worker._replace(step=4)


def start(state: State, worker: Worker) -> tuple[State, Worker]:
    head = state.head._replace(token=state.head.token + 1, session=Session(worker.name))
    return state._replace(head=head), worker._replace(step=worker.step + 1, token=head.token)


def put(state: State, worker: Worker, made: Entry) -> tuple[State, Worker]:
    return state._replace(objects=state.objects | {made}), worker._replace(step=worker.step + 1, made=made)


def record(state: State, worker: Worker, *, told: bool) -> tuple[State, Worker]:
    chains = {worker.seen.chain} if told else set()
    return state._replace(history=state.history | chains), worker._replace(step=worker.step + 1)


def done(state: State, worker: Worker) -> tuple[State, Worker]:
    return state._replace(told_done=state.told_done | set(worker.sent)), worker._replace(step=OVER)


def fail(state: State, worker: Worker) -> tuple[State, Worker]:
    return state._replace(told_failed=state.told_failed | set(worker.sent)), worker._replace(step=OVER)


SCRIPTS = (
    ("A", "sync"),
    ("A", "late"),
    ("B", "rival"),
    ("A", "twice"),
    ("A", "check"),
    ("A", "finish"),
    ("U", "upload"),
    ("V", "upload"),
    ("C", "compact"),
    ("S", "sweep"),
)
THREES = [
    scripts
    for scripts in itertools.combinations(SCRIPTS, 3)
    if sum(script in {"sync", "late", "twice"} for _, script in scripts) <= 1
    and (("V", "upload") not in scripts or {("U", "upload"), ("A", "sync")} <= set(scripts))
]


def search(missing: str | None, scripts: tuple[tuple[str, str], ...]) -> tuple[str, int]:
    """The first fault found, and how many states were seen."""
    model = Model(missing)
    first = State(
        Head(2, 0, 1, START), frozenset(START), frozenset(), tuple(Worker(*script) for script in scripts)
    )
    seen, edge = {first}, [first]
    while edge:
        found = []
        for state in edge:
            if fault := find_fault(state):
                return fault, len(seen)
            found.extend(new for new in model.moves(state) if new not in seen and not seen.add(new))
        edge = found
    return "", len(seen)


@pytest.mark.parametrize("scripts", THREES, ids=lambda s: "+".join(map("".join, s)))
def test_with_all_guards_no_order_of_three_activities_does_harm(scripts):
    fault, states = search(None, scripts)
    assert not fault
    assert states >= 5  # the fewest are those of a finish without a check, and nothing to compact


def test_four_activities_do_no_harm():
    assert search(None, (("A", "sync"), ("U", "upload"), ("C", "compact"), ("S", "sweep")))[0] == ""


@pytest.mark.parametrize("guard", GUARDS)
def test_without_any_one_guard_harm_is_found(guard):
    what = guard.partition(":")[0]
    threes = [scripts for scripts in THREES if what in {script for _, script in scripts}] or THREES
    assert any(search(guard, scripts)[0] for scripts in threes)
