"""Puts a walk to two servers, and says where they part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.differential.compare import Clock, first_difference, portrait, rows
from tests.differential.intended import Difference, find
from tests.differential.steps import Runner, Step
from tests.support.servers import Server
from tests.support.wire import Answer, Wire, read_zip

MOST_CHUNKS = 200
KINDS = ("cards", "notes", "revlog")
SPARE_USERS = 300  # kept for the walks still to come


@dataclass
class Outcome:
    steps: int
    difference: str = ""
    intended: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether the servers behaved alike."""
        return not self.difference


class Side:
    """One of the two servers, for one user of it."""

    def __init__(self, wire: Wire) -> None:
        self.runner, self.clock = Runner(wire), Clock()
        self.sent: list[str] = []  # the rows that this sync has handed out so far
        self.all_sent: list[str] | None = None  # those of a sync that has handed out its last chunk

    @classmethod
    def of_new_user(cls, server: Server) -> Side:
        user, wire = server.next_user(), Wire(server.port)
        wire.login(user.name, user.password)
        return cls(wire)

    def collect(self, answer: Answer) -> bool:
        """Keep the rows of a chunk; true when it is the last."""
        self.sent += self.rows_of(answer)
        return bool(answer.json["done"])

    def rows_of(self, answer: Answer) -> list[str]:
        """The rows of a chunk."""
        chunk = answer.json
        return [json.dumps([kind, row]) for kind in KINDS for row in self.clock.normal(chunk.get(kind, []))]

    def drain(self, step: Step) -> None:
        for _ in range(MOST_CHUNKS):
            if self.collect(self.runner.put(step)):
                return
        raise AssertionError("the chunks never end")

    def state(self) -> dict[str, Any]:
        """Everything the server keeps for the user."""
        wire = self.runner.wire
        out: dict[str, Any] = {"collection": rows(wire.download(), self.clock), "media": [], "files": {}}
        while page := wire.call("mediaChanges", {"lastUsn": out["media"][-1][1] if out["media"] else 0}).json[
            "data"
        ]:
            out["media"] += page
        names = [name for name, _, sha1 in out["media"] if sha1]
        while names:
            answer = wire.call("downloadFiles", {"files": names[:25]})
            assert answer.ok, answer
            found = read_zip(answer.body)
            assert found
            out["files"] |= found
            names = names[len(found) :]
        return out


def walk(steps: Sequence[Step], official: Server, examined: Server) -> Outcome:
    """Compare every answer, and what is kept in the end."""
    sides = Side.of_new_user(official), Side.of_new_user(examined)
    outcome = Outcome(0)
    try:
        for number, step in enumerate(steps):
            outcome.steps = number + 1
            known = _compare_step(step, sides, outcome)
            if outcome.difference or (known and known.ends) or step.note == "the last":
                return outcome
        first, second = (side.state() for side in sides)
        if first != second:
            outcome.difference = "state after it: " + first_difference(first, second)
    finally:
        for side in sides:
            side.runner.wire.connection.close()
    return outcome


def _compare_step(step: Step, sides: tuple[Side, Side], outcome: Outcome) -> Difference | None:
    if step.method == "start":
        for side in sides:
            side.sent.clear()
            side.all_sent = None
    answers = [side.runner.put(step) for side in sides]
    known = find(step, answers[0], answers[1])
    if known:
        outcome.intended.append(known.reason)
        if known.refused_by_merge:
            outcome.difference = _compare_refusals(step, sides, answers[0])
        return known
    if step.method == "chunk" and answers[0].ok and answers[1].ok:
        outcome.difference = _compare_chunks(step, sides, answers)
        return None
    first, second = (
        portrait(step.method, answer, side.clock) for answer, side in zip(answers, sides, strict=True)
    )
    if first != second:
        outcome.difference = first_difference(first, second) + f" ({answers[1].body[:300]!r})"
    return None


def _compare_refusals(step: Step, sides: tuple[Side, Side], refusal: Answer) -> str:
    """What the step was refused with by the one server must be what the other refuses the commit with."""
    late = sides[1].runner.put(Step("finish", {}, step.skey, step.form))
    first, second = (
        portrait(step.method, answer, side.clock) for answer, side in zip((refusal, late), sides, strict=True)
    )
    return "" if first == second else "late refusal: " + first_difference(first, second)


def _compare_chunks(step: Step, sides: tuple[Side, Side], answers: Sequence[Answer]) -> str:
    """Servers may cut the same rows into chunks as they like: clients take any size.

    After the last chunk the official server gives an empty one. Ours gives the last one again, as its
    answer may have been lost.
    """
    if sides[0].all_sent is not None:
        chunks = [answer.json for answer in answers]
        again = sides[1].rows_of(answers[1])
        known = set(sides[1].all_sent or ())
        if chunks[0] == {"done": True} and chunks[1]["done"] and known.issuperset(again):
            return ""
        return f"after the last chunk: {chunks}"
    done = [side.collect(answer) for side, answer in zip(sides, answers, strict=True)]
    if not any(done):
        return ""
    for side, ended in zip(sides, done, strict=True):
        if not ended:
            side.drain(step)
    first, second = (sorted(side.sent) for side in sides)
    for side in sides:
        side.all_sent = list(side.sent)
        side.sent.clear()
    return "" if first == second else "all chunks: " + first_difference(first, second)


def shortest(steps: Sequence[Step], official: Server, examined: Server, outcome: Outcome) -> Sequence[Step]:
    """The shortest beginning of a failed walk that fails too."""
    spare = min(len(server.users) - server.taken for server in (official, examined))
    if not outcome.difference.startswith("state") or spare < SPARE_USERS:
        return steps[: outcome.steps]
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        if walk(steps[:middle], official, examined):
            low = middle + 1
        else:
            high = middle
    return steps[:high]


def story(seed: int, steps: Sequence[Step], outcome: Outcome) -> str:
    lines = [f"walk of seed {seed}: {outcome.difference}", "after:"]
    return "\n".join([*lines, *(f"  {number}. {step}" for number, step in enumerate(steps, 1))])
