"""Random walks through the protocol, put to the official server and to the one examined."""

from __future__ import annotations

import os

import pytest

from tests.differential.samples import Templates
from tests.differential.walking import shortest, story, walk
from tests.differential.walks import Walk
from tests.support.servers import Server

WALKS = int(os.environ.get("WALKS", "200"))
FIRST_SEED = int(os.environ.get("WALK_SEED", "1"))
USUAL = 80
"""So many are walked at every change."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(FIRST_SEED + number, marks=() if number < USUAL else pytest.mark.thorough)
        for number in range(WALKS)
    ],
)
def test_a_random_walk_meets_the_same_answers_and_leaves_the_same_data(
    seed: int, official: Server, examined: Server, templates: Templates, collections: list[bytes]
) -> None:
    steps = list(Walk(seed, templates, collections).steps())
    outcome = walk(steps, official, examined)
    if not outcome:
        # looking for less takes more users, so only the first failures are looked at so closely
        steps = list(shortest(steps, official, examined, outcome))
        pytest.fail(story(seed, steps, outcome), pytrace=False)
