"""Many workers, devices that interrupt one another, and everything that goes wrong, in one process.

A seed that fails is run again, alone, by `make simulate FIRST=<seed> SEEDS=1`; what it has shown becomes a
scenario in `test_found`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest

from storage.collection.engine.codec import Codec
from tests.simulation.__main__ import fast_folder, run
from tests.simulation.official import Referee, comparable
from tests.simulation.oracle import difference
from tests.simulation.world import make_template, simulate
from tests.support.wire import Wire

SEEDS = 300
REFEREED_SEEDS = 6


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_template(tmp_path_factory.mktemp("template"), Codec())


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(dir=fast_folder()) as name:
        yield Path(name)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_was_acknowledged_is_stored_and_nothing_else(seed):
    _, trouble = run(seed)
    assert not trouble, trouble


def test_the_same_seed_gives_the_same_run(template, folder):
    runs = [simulate(7, template, folder / str(number)) for number in range(2)]
    for world in runs:
        world.close()
    assert runs[0].events == runs[1].events
    assert len(runs[0].events) > 50


def test_the_oracle_makes_of_the_syncs_what_the_official_server_does(template, folder, official_server):
    compared = 0
    for seed in range(1000, 1000 + REFEREED_SEEDS):
        # At today's time: the official server has no other clock.
        now_ms = int(time.time() * 1000)
        world = simulate(seed, template, folder / str(seed), now_ms=now_ms, days_may_pass=False)
        world.close()
        for user in world.users.values():
            account = official_server.next_user()
            with Wire(official_server.port) as wire:
                wire.login(account.name, account.password)
                found = Referee(wire).replay(user.transcript)
            ours = user.oracle.dumps[user.head.version]
            assert not difference(comparable(ours), comparable(found)), seed
            compared += sum(kind == "sync" for kind, _ in user.transcript)
    assert compared > 30
