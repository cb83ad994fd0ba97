"""The protocol of heads and objects as a small model, searched through breadth first.

Workers sync, upload, compact and sweep, one store call at a time, in every order; any of them may
die at any step (it just never moves again), and the reply of a write may get lost. Without any one
of the guards the search must find a fault: that proves that the guard is needed and the search sees.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import pytest

GUARDS = (
    "append: token and session",
    "append: journal length",
    "flip: base version",
    "flip: token and session",
    "flip: journal length",
    "lost reply: look for the commit id in the chain",
    "upload: history before the flip",
    "compact: token",
    "compact: chain revision",
    "compact: history before the flip",
    "sweep: only tokens below the head's",
    "sweep: keep what the head names",
    "sweep: keep what history names",
    "sweep: read history after the head",
)


class Entry(NamedTuple):
    """An object of a chain; `commits` are the changes it carries, in order."""

    name: str
    first: int
    last: int
    commits: tuple[str, ...]
    token: int


Chain = tuple[Entry, ...]


class Head(NamedTuple):
    version: int
    token: int
    revision: int
    chain: Chain
    session: str | None = None
    journal: tuple[str, ...] = ()


class Worker(NamedTuple):
    name: str
    script: str
    step: int = 0
    seen: Head | None = None
    made: Entry | None = None
    listed: frozenset[Entry] = frozenset()
    kept: frozenset[str] = frozenset()


class State(NamedTuple):
    head: Head
    objects: frozenset[Entry]
    history: frozenset[Chain]
    workers: tuple[Worker, ...]
    told_done: frozenset[str] = frozenset()
    told_failed: frozenset[str] = frozenset()
    losses: int = 1
    """Replies that may still get lost."""
    fault: str = ""


Moves = Iterator[tuple[State, Worker]]
START = (Entry("snapshot", 1, 1, ("genesis",), -1), Entry("delta", 2, 2, ("old",), 0))


def commits_of(chain: Chain) -> list[str]:
    return [commit for entry in chain for commit in entry.commits]


def find_fault(state: State) -> str:
    """What must never be, or an empty string."""
    head, names = state.head, {entry.name for entry in state.objects}
    commits = commits_of(head.chain)
    leads = all(b.first <= a.last + 1 <= b.last for a, b in itertools.pairwise(head.chain))
    chains = {*state.history, head.chain}
    rebuilt = {
        entry.last
        for chain in chains
        for at, entry in enumerate(chain)
        if all(part.name in names for part in chain[: at + 1])
    }
    faults = {
        "the chain does not lead to the version": not leads or head.chain[-1].last != head.version,
        "an object of the chain is gone": not all(entry.name in names for entry in head.chain),
        "a change is in twice": len(commits) != len(set(commits)),
        "an acknowledged change is lost": not state.told_done <= set(commits),
        "a change that was refused is in": bool(state.told_failed & set(commits)),
        "a version cannot be brought back": rebuilt < set(range(1, head.version + 1)),
        "a request is in the journal twice": len(head.journal) != len(set(head.journal)),
        "a journal has another session's request": any(head.session not in entry for entry in head.journal),
    }
    return state.fault or next((fault for fault, found in faults.items() if found), "")


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

    # A sync: start, one request journalled, one delta, the flip.

    def sync_0(self, state: State, worker: Worker) -> Moves:
        head = state.head
        head = head._replace(token=head.token + 1, session=worker.name, journal=(f"{worker.name} start",))
        yield state._replace(head=head), worker._replace(step=1, seen=head)

    def sync_1(self, state: State, worker: Worker) -> Moves:
        head, request = state.head, f"{worker.name} request"
        ours = (head.token, head.session) == (worker.seen.token, worker.name)
        if (self.has("append: token and session") and not ours) or head.session is None:
            yield fail(state, worker)
        elif self.has("append: journal length") and len(head.journal) > 1:
            # The same request is there already: its first reply was lost.
            yield state, worker._replace(step=2, seen=head)
        else:
            head = head._replace(journal=(*head.journal, request))
            yield state._replace(head=head), worker._replace(step=2, seen=head)
            if state.losses:
                yield state._replace(head=head, losses=0), worker

    def sync_2(self, state: State, worker: Worker) -> Moves:
        yield put(state, worker, delta(worker))

    def sync_3(self, state: State, worker: Worker) -> Moves:
        yield from self.flip(state, worker, session=worker.name)

    # Another worker got the session's last request, but knows less of its journal.

    def behind_0(self, state: State, worker: Worker) -> Moves:
        if state.head.session == worker.name and len(state.head.journal) == 1:
            yield state, worker._replace(step=1, seen=state.head)

    def behind_1(self, state: State, worker: Worker) -> Moves:
        yield put(state, worker, delta(worker)._replace(name=f"{worker.name} too early"))

    def behind_2(self, state: State, worker: Worker) -> Moves:
        if state.head.session == worker.name and len(state.head.journal) > 1:
            for new, after in self.flip(state, worker, session=worker.name):
                lost = new.head.version > state.head.version
                yield (
                    new._replace(
                        fault="a journalled request is lost" if lost else "", told_failed=frozenset()
                    ),
                    after,
                )

    # An upload: a whole file that was made from the version it saw.

    def upload_0(self, state: State, worker: Worker) -> Moves:
        yield state, worker._replace(step=1, seen=state.head)

    def upload_1(self, state: State, worker: Worker) -> Moves:
        seen = worker.seen
        commits = (*commits_of(seen.chain), worker.name)
        yield put(state, worker, Entry(worker.name, seen.version + 1, seen.version + 1, commits, seen.token))

    def upload_2(self, state: State, worker: Worker) -> Moves:
        yield record(state, worker, told=self.has("upload: history before the flip"))

    def upload_3(self, state: State, worker: Worker) -> Moves:
        yield from self.flip(state, worker, session=None)

    def flip(self, state: State, worker: Worker, session: str | None) -> Moves:
        head, seen, made = state.head, worker.seen, worker.made
        if self.has("lost reply: look for the commit id in the chain") and made.commits[-1] in commits_of(
            head.chain
        ):
            yield state._replace(told_done=state.told_done | {worker.name}), worker._replace(step=9)
            return
        allowed = not self.has("flip: base version") or head.version == seen.version
        if self.has("flip: token and session"):
            allowed &= head.token == seen.token and session in {None, head.session}
        if session is not None and self.has("flip: journal length"):
            allowed &= len(head.journal) == len(seen.journal)
        if not allowed:
            yield fail(state, worker)
            return
        chain = (made,) if session is None else (*head.chain, made)
        token = head.token + 1 if session is None else head.token
        new = state._replace(head=Head(head.version + 1, token, head.revision + 1, chain))
        yield new._replace(told_done=new.told_done | {worker.name}), worker._replace(step=9)
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
        yield record(state, worker, told=self.has("compact: history before the flip"))

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


def delta(worker: Worker) -> Entry:
    version = worker.seen.version + 1
    return Entry(worker.name, version, version, (worker.name,), worker.seen.token)


def put(state: State, worker: Worker, made: Entry) -> tuple[State, Worker]:
    return state._replace(objects=state.objects | {made}), worker._replace(step=worker.step + 1, made=made)


def record(state: State, worker: Worker, *, told: bool) -> tuple[State, Worker]:
    chains = {worker.seen.chain} if told else set()
    return state._replace(history=state.history | chains), worker._replace(step=worker.step + 1)


def fail(state: State, worker: Worker) -> tuple[State, Worker]:
    return state._replace(told_failed=state.told_failed | {worker.name}), worker._replace(step=9)


SCRIPTS = (
    ("A", "sync"),
    ("B", "sync"),
    ("A", "behind"),
    ("U", "upload"),
    ("V", "upload"),
    ("C", "compact"),
    ("S", "sweep"),
)
THREES = list(itertools.combinations(SCRIPTS, 3))


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
def test_with_all_guards_no_order_of_three_workers_does_harm(scripts):
    fault, states = search(None, scripts)
    assert not fault
    assert states > 20


def test_four_workers_do_no_harm():
    assert search(None, (("A", "sync"), ("U", "upload"), ("C", "compact"), ("S", "sweep")))[0] == ""


@pytest.mark.parametrize("guard", GUARDS)
def test_without_any_one_guard_harm_is_found(guard):
    assert any(search(guard, scripts)[0] for scripts in THREES)
