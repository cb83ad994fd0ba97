"""The state that maintenance keeps between its runs, as small objects; the newest one is valid.

Read and written by `app.maintenance`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec

from storage.database.format import envelope
from storage.errors import Corrupt
from storage.objects.base import ObjectStore

_PREFIX: Final = "upkeep/runs/"
S = TypeVar("S")


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
    """Media contents that some index referred to at the last full run."""
    started_ms: int = 0
    """When the run that is in progress or was interrupted began; 0 if there is none."""
    is_full: bool = False
    since_ms: int = 0
    """That run looks at databases changed at this time or later."""
    after: str = ""
    """Databases up to this one (`user/kind`) are done in that run."""


class Checked(msgspec.Struct, frozen=True, array_like=True):
    """How far the standing check (`app.restorecheck`) is in one shard. All times are by the store's clock."""

    seen_ms: int = 0
    """When it last ran; 0 before the first run."""
    after: str = ""
    """Users up to this id are checked in the round that is under way."""
    round_ms: int = 0
    """When that round began."""
    whole_ms: int = 0
    """When the last finished round began: every user was restored and compared since then. 0 if none is."""
    last_ms: int = 0
    """When a user was last restored and found sound."""
    users: int = 0
    """Of the last finished round."""
    faults: dict[str, str] = {}
    """What is wrong with which database (`user/kind`), until it is found sound."""


class StateLog(Generic[S]):
    """The states that one shard's work goes through. The last one counts."""

    def __init__(
        self, objects: ObjectStore, nonce: Callable[[], str], prefix: str, magic: bytes, empty: S
    ) -> None:
        """`prefix` has a folder for each shard; `empty` is the state before the first run."""
        self._objects, self._nonce, self._prefix = objects, nonce, prefix
        self._magic, self._empty = magic, empty

    def read(self) -> S:
        """The last state; the empty one before the first run. Raises: Corrupt, NotFound."""
        names = self._list()
        if not names:
            return self._empty
        content = self._objects.read(names[-1])
        try:
            return msgspec.msgpack.decode(
                envelope.unseal(names[-1], self._magic, content), type=type(self._empty)
            )
        except msgspec.MsgspecError as exc:
            raise Corrupt(names[-1], "a state", str(exc)) from exc

    def write(self, state: S) -> None:
        """Store a state as the last one, and remove the older ones."""
        older = self._list()
        number = int(older[-1].removeprefix(self._prefix)[:16], 16) + 1 if older else 1
        key = f"{self._prefix}{number:016x}-{self._nonce()}.run"
        self._objects.put(key, envelope.seal(self._magic, msgspec.msgpack.encode(state)))
        self._objects.delete(older)

    def _list(self) -> list[str]:
        return [stat.key for stat in self._objects.list(self._prefix) if stat.key.endswith(".run")]


class RunLog(StateLog[Run]):
    """The runs of maintenance, of one shard of `count`."""

    def __init__(
        self, objects: ObjectStore, nonce: Callable[[], str], shard: int = 1, count: int = 1
    ) -> None:
        super().__init__(objects, nonce, f"{_PREFIX}{shard}-of-{count}/", envelope.RUN, Run())


class CheckLog(StateLog[Checked]):
    """The standing check, of one shard of `count`."""

    PREFIX = "upkeep/checks/"

    def __init__(
        self, objects: ObjectStore, nonce: Callable[[], str], shard: int = 1, count: int = 1
    ) -> None:
        super().__init__(objects, nonce, f"{self.PREFIX}{shard}-of-{count}/", envelope.CHECK, Checked())


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
