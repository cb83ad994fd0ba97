"""Devices of one user that sync as they please: every finish that was answered is there, and nothing else."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.app.sync.scripts import USN

CONFLICT, OK = 409, 200


class Device:
    """Runs one script after the other, and begins anew when somebody else took the database over."""

    def __init__(self, name, scripts) -> None:
        self.name = name
        self.finished = []
        self.conflicts = 0
        self._scripts = list(scripts)
        self._begin()

    def _begin(self) -> None:
        self._requests = iter([*self._scripts[0][1], ("finish", {})])

    @property
    def is_done(self) -> bool:
        return not self._scripts

    def go_on(self, worker) -> None:
        """Send the next request, to this worker."""
        method, message = next(self._requests)
        status, answer = worker.do((method, message), self.name)
        assert status in {OK, CONFLICT}, (method, status)
        if status == CONFLICT:
            self.conflicts += 1
            self._begin()
        elif b'"bad"' in answer:
            raise AssertionError(answer)
        elif method == "finish":
            self.finished.append((int(answer), self._scripts.pop(0)[0]))
            if self._scripts:
                self._begin()


def scripts_of(base, seed, count):
    """Scripts that only add tags, so that any order of them is sane."""
    empty = {"models": [], "decks": [[], []]}
    for number in range(count):
        tag = f"tag{seed}-{number}"
        start = {"minUsn": USN, "lnewer": False}
        counts = base.counts()
        yield (
            tag,
            [
                ("start", start),
                ("applyChanges", {"changes": empty | {"tags": [tag]}}),
                ("chunk", {}),
                ("applyChunk", {"chunk": {"done": True}}),
                ("sanityCheck2", {"client": counts}),
            ],
        )


def check(world, base, devices):
    """The tags of all finished syncs are there, in as many commits, each with a mod of its own."""
    finished = [sync for device in devices for sync in device.finished]
    tags = {row[0] for row in world.committed()["tags"]}
    before = {"odd", "even"}
    assert tags == {tag for _, tag in finished} | before
    assert world.head().version == 1 + len(finished)
    assert world.head().stamps["usn"] == USN + len(finished)
    assert len({mod for mod, _ in finished}) == len(finished)
    assert world.head().stamps["mod"] == max(mod for mod, _ in finished)


@pytest.mark.parametrize("seed", range(6))
def test_devices_that_interleave_on_several_workers_lose_nothing(world, base, seed):
    """Whichever device starts last goes on; the others get 409 and begin anew."""
    chance = random.Random(seed)
    workers = [world.worker() for _ in range(3)]
    devices = [Device(f"device{n}", scripts_of(base, n, 3)) for n in range(3)]
    while waiting := [device for device in devices if not device.is_done]:
        for device in [chance.choice(waiting)] * chance.randrange(1, 8):
            if not device.is_done:
                device.go_on(chance.choice(workers))
    check(world, base, devices)
    assert sum(device.conflicts for device in devices) > 0


def test_devices_in_threads_lose_nothing(world, base):
    """Requests that are really under way at the same time, on workers that share nothing but the stores."""
    workers = [world.worker() for _ in range(2)]
    devices = [Device(f"device{n}", scripts_of(base, n, 2)) for n in range(3)]
    turn = threading.Semaphore(2)

    def run(device):
        chance = random.Random(device.name)
        while not device.is_done:
            with turn:
                for _ in range(8):
                    if not device.is_done:
                        device.go_on(chance.choice(workers))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, devices))
    check(world, base, devices)
