"""When maintenance has last gone through everything, in one part or in several."""

from __future__ import annotations

import itertools

from storage.database.maintenance.runs import Run, RunLog, last_finished_ms
from storage.objects.memory import MemoryObjectStore


def test_the_last_run_is_the_one_of_all_users() -> None:
    objects, numbers = MemoryObjectStore(lambda: 0), itertools.count()

    def nonce() -> str:
        return f"{next(numbers):08x}"

    def finished(shard: int, count: int, time_ms: int) -> int | None:
        RunLog(objects, nonce, shard, count).write(Run(time_ms, time_ms))
        return last_finished_ms(objects, nonce)

    assert last_finished_ms(objects, nonce) is None
    assert finished(1, 2, 5000) is None  # the other half was never done
    assert finished(2, 2, 4000) == 4000
    assert finished(2, 2, 6000) == 5000
    assert finished(1, 1, 5500) == 5500
    RunLog(objects, nonce, 1, 1).write(Run(seen_ms=9000, finished_ms=5500, started_ms=9000))
    assert last_finished_ms(objects, nonce) == 5500  # one that is under way does not count
