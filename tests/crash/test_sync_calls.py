"""Every store call of every request of a sync fails, before or after it landed, and the client asks again.

Whether the worker only reports the failure or dies there, another one answers the second request as if there
had been no first one, and in the end exactly the sync is stored. A client that gives up instead leaves the
collection as it was, or has the whole sync in it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.database.limits import Limits
from storage.heads.base import HeadStore
from storage.heads.memory import MemoryHeadStore
from tests.app.sync.conftest import base, codec
from tests.app.sync.scripts import Base, Request
from tests.app.sync.workers import COLLECTION, World
from tests.crash.backends import backends
from tests.support.engines import moto_bucket, moto_endpoint, moto_table
from tests.support.faults import Faults

__all__ = ["base", "codec", "moto_bucket", "moto_endpoint", "moto_table"]

LIMITS = Limits(journal_inline_bytes=1000, journal_fold_entries=3)
BACKENDS = backends(wired_step=9)


class Run:
    """One sync, whose requests go to a worker that fails at one call."""

    def __init__(self, folder: Path, codec, base: Base, heads: HeadStore) -> None:
        folder.mkdir()
        self.world = World(folder, codec, base, heads)
        self.faults = Faults()
        self.first = self.world.worker(self.faults, LIMITS)
        self.second = self.world.worker(limits=LIMITS)
        self.before = self.world.committed()

    def close(self) -> None:
        self.world.heads.delete(COLLECTION)
        self.world.close()

    def do(self, request: Request) -> tuple[int, bytes]:
        """Status 0 if the worker died."""
        try:
            return self.first.do(request)
        except KeyboardInterrupt:
            self.first = self.second
            return 0, b""


def script(base: Base) -> list[Request]:
    """Brings deletions, changes and rows, and is given some; the counts agree."""
    return [*base.script(3), ("finish", {})]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, codec, base):
    """What the sync is answered and leaves, and how many calls it takes."""
    run = Run(tmp_path_factory.mktemp("undisturbed") / "run", codec, base, MemoryHeadStore())
    answers = [run.do(request) for request in script(base)]
    assert {status for status, _ in answers} == {200}
    found = answers, run.world.committed(), run.faults.count()
    run.close()
    return found


@pytest.mark.parametrize(("heads", "step"), BACKENDS)
@pytest.mark.parametrize("landed", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt()], ids=["fails", "dies"])
def test_a_request_that_is_sent_again_ends_as_if_nothing_had_been(
    tmp_path, request, codec, base, undisturbed, heads, step, landed, error
):
    answers, committed, calls = undisturbed
    for number in range(1, calls + 1, step):
        run = Run(tmp_path / str(number), codec, base, heads(tmp_path, request))
        run.faults.fail(number, landed=landed, error=error)
        failed = 0
        for message, expected in zip(script(base), answers, strict=True):
            found = run.do(message)
            if found[0] != 200:
                failed += 1
                found = run.second.do(message)
            assert found == expected, (number, message[0], found)
        assert failed <= 1, number
        assert run.world.committed() == committed, number
        run.close()


@pytest.mark.parametrize("landed", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt()], ids=["fails", "dies"])
def test_a_client_that_gives_up_leaves_all_or_nothing(tmp_path, codec, base, undisturbed, landed, error):
    _, committed, calls = undisturbed
    for number in range(1, calls + 1):
        run = Run(tmp_path / str(number), codec, base, MemoryHeadStore())
        run.faults.fail(number, landed=landed, error=error)
        for message in script(base):
            status, _ = run.do(message)
            if status != 200:
                may_be_in = message[0] == "finish"
                break
        else:
            status, may_be_in = 200, True  # the fault was overcome by the worker itself
        found = run.world.committed()
        assert (
            found == committed
            if status == 200
            else found in ([run.before, committed] if may_be_in else [run.before])
        )
        run.close()
