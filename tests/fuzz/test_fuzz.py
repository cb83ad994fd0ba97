"""The short form of `make fuzz`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.campaign import run
from tests.fuzz.inputs import Sounds, make_input

COUNT = 800


@pytest.mark.parametrize("seed", ["first"])
def test_no_input_is_a_fault_of_ours(tmp_path: Path, seed: str) -> None:
    report = run(tmp_path, seed, COUNT)
    assert report.faults == []
    assert sum(report.sent.values()) == COUNT
    assert set(report.sent) == {"head", "body", "form", "message", "zip", "database"}
    assert {200, 400} < set(report.statuses)  # some are sound still, and not all


def test_the_same_number_is_the_same_input() -> None:
    sounds = Sounds("key", random.Random(1).randbytes(5000))
    assert make_input("a", 7, sounds) == make_input("a", 7, sounds)
    assert make_input("a", 7, sounds) != make_input("b", 7, sounds)
