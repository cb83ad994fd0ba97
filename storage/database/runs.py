"""What maintenance has to remember from one run to the next: small objects, the last one of which counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Final

import msgspec

from storage.database import sealed
from storage.errors import Corrupt
from storage.objects.base import ObjectStore

_PREFIX: Final = "upkeep/runs/"


class Run(msgspec.Struct, frozen=True, array_like=True):
    """The state of one shard's maintenance. All times are by the object store's clock."""

    seen_ms: int = 0
    """When this was written; 0 before the first run."""
    finished_ms: int = 0
    """When the last finished run began."""
    full_ms: int = 0
    """When the last finished full run began."""
    databases: int = 0
    """Head records at the last full run."""
    blobs: int = 0
    """Contents of media that were named at the last full run."""
    started_ms: int = 0
    """When the run began that is under way or was broken off; 0 where none is."""
    is_full: bool = False
    since_ms: int = 0
    """From when on that run takes changed databases."""
    after: str = ""
    """Databases up to this one (`user/kind`) are done in that run."""


class RunLog:
    """The runs of one shard of `count`."""

    def __init__(
        self, objects: ObjectStore, nonce: Callable[[], str], shard: int = 1, count: int = 1
    ) -> None:
        self._objects, self._nonce = objects, nonce
        self._prefix = f"{_PREFIX}{shard}-of-{count}/"

    def read(self) -> Run:
        """The last state; an empty one before the first run."""
        names = self._list()
        if not names:
            return Run()
        content = self._objects.read(names[-1])
        try:
            return msgspec.msgpack.decode(sealed.unseal(names[-1], sealed.RUN, content), type=Run)
        except msgspec.MsgspecError as exc:
            raise Corrupt(names[-1], "a run", str(exc)) from exc

    def write(self, run: Run) -> None:
        """Make this the last state, and remove those before it."""
        older = self._list()
        number = int(older[-1].removeprefix(self._prefix)[:16], 16) + 1 if older else 1
        key = f"{self._prefix}{number:016x}-{self._nonce()}.run"
        self._objects.put(key, sealed.seal(sealed.RUN, msgspec.msgpack.encode(run)))
        self._objects.delete(older)

    def _list(self) -> list[str]:
        return [stat.key for stat in self._objects.list(self._prefix) if stat.key.endswith(".run")]


def last_finished_ms(objects: ObjectStore, nonce: Callable[[], str]) -> int | None:
    """When the last run began that went through all users, in one part or in several; None if none did."""
    shards: defaultdict[int, set[int]] = defaultdict(set)
    for stat in objects.list(_PREFIX):
        number, _, count = stat.key.removeprefix(_PREFIX).partition("/")[0].partition("-of-")
        shards[int(count)].add(int(number))
    found = [
        min(RunLog(objects, nonce, number, count).read().finished_ms for number in numbers)
        for count, numbers in shards.items()
        if len(numbers) == count
    ]
    return max(found, default=0) or None
