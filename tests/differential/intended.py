"""The differences from the official server that are meant, each with its reason. Nothing else may differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.differential.steps import Step
from tests.support.wire import Answer


@dataclass(frozen=True)
class Difference:
    """`applies` sees the step and both answers, the official one first; `ends` where the states part.

    `refused_by_merge`: the commit must be refused with the official server's answer to this step.
    """

    reason: str
    applies: Callable[[Step, Answer, Answer], bool]
    ends: bool = False
    refused_by_merge: bool = False


UNREADABLE = "unreadable object"
FIELD_COUNT = "field count, unless the collection is without the notetype"
KEY_TWICE = b'{"chunk":{"done":true,"done":false}}'


def _is_array_for_object(step: Step) -> bool:
    return isinstance(step.payload, dict) and any(isinstance(part, list) for part in step.payload.values())


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "wrong passwords are counted, and after too many of them refused unseen",
        lambda step, official, ours: (step.method, official.status, ours.status) == ("hostKey", 403, 429),
    ),
    Difference(
        "a notetype or deck that the engine cannot read ends the sync: it is found out when it is applied, "
        "where the official server finds it out when it reads the request",
        lambda step, official, ours: step.note == UNREADABLE and official.status == ours.status == 400,
        ends=True,
    ),
    Difference(
        "a sync that has failed the sanity check is over; the official server answers its finish with 400, "
        "and counts the USN up all the same",
        lambda step, official, ours: (step.method, official.status, ours.status) == ("finish", 400, 409),
        ends=True,
    ),
    Difference(
        "the official server's reader refuses a key that comes twice, ours takes the last",
        lambda step, official, ours: (
            step.payload == KEY_TWICE and (official.status, ours.status) == (400, 200)
        ),
    ),
    Difference(
        "the official server's reader takes an array for an object; no client sends that",
        lambda step, official, ours: (
            _is_array_for_object(step) and official.status == 200 and ours.status == 400
        ),
    ),
    Difference(
        "rows that do not fit the stored ones are found out when the sync is merged, and not by the step",
        lambda step, official, ours: (
            step.method in {"applyChunk", "applyChanges"} and (official.status, ours.status) == (400, 200)
        ),
        ends=True,
        refused_by_merge=True,
    ),
    Difference(
        "a second applyChanges of a sync, which no client sends, is answered from the version that the sync "
        "began with, and not from what the first one made of it",
        lambda step, official, ours: step.note == FIELD_COUNT and official.status == ours.status == 200,
        ends=True,
    ),
)


def find(step: Step, official: Answer, ours: Answer) -> Difference | None:
    return next((known for known in DIFFERENCES if known.applies(step, official, ours)), None)
