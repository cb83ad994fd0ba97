"""The history of a database: objects that record earlier chains, so that an earlier version can be restored.

A history object is written before each head update that drops entries from the chain. It keeps the objects of
its chain from being deleted until it is older than the limit (`history_ms`), by the store's clock.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import msgspec

from storage.database.format import envelope, keys
from storage.database.limits import Limits
from storage.errors import Corrupt, NotFound
from storage.objects.base import ObjectStore
from storage.types import ChainEntry, DatabaseId, EntryKind, Head

_BATCH = 50
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


class ArchivedChain(msgspec.Struct, frozen=True, array_like=True):
    """The chain before a head update that drops entries from it; the content of a history object."""

    time_ms: int
    version: int
    chain: tuple[ChainEntry, ...]


class Departed(msgspec.Struct, frozen=True):
    """A history object with its key and age."""

    key: str
    modified_ms: int
    """By the store's clock."""
    departure: ArchivedChain


class RestorePoint(msgspec.Struct, frozen=True, order=True):
    """A version that can be restored."""

    version: int
    time_ms: int
    chain: tuple[ChainEntry, ...]
    """A snapshot, and deltas up to this version."""


class History:
    """Writes and reads the history objects of any database."""

    def __init__(self, objects: ObjectStore, kept_ms: int, clock_ms: Callable[[], int]) -> None:
        self._objects, self._kept_ms, self._clock_ms = objects, kept_ms, clock_ms

    def record(self, database: DatabaseId, head: Head, nonce: str) -> None:
        """Store `head.chain` as a history object. Must precede the head update that drops any entry of it."""
        if not head.chain:
            return
        departure = ArchivedChain(self._clock_ms(), head.version, head.chain)
        key = keys.history_key(database, head.chain_revision, head.token, nonce)
        self._objects.put(key, envelope.seal(envelope.HISTORY, msgspec.msgpack.encode(departure)))

    def is_expired(self, departed: Departed, now_ms: int) -> bool:
        """Whether the objects of its chain may be deleted at `now_ms`, the time by the store's clock.

        The latest of all times in it counts, so that a clock that was behind when it was written does not
        shorten the history.
        """
        departure = departed.departure
        times = (departed.modified_ms, departure.time_ms, *(entry.time_ms for entry in departure.chain))
        return max(times) + self._kept_ms <= now_ms

    def list_departed(self, database: DatabaseId) -> Iterator[Departed]:
        """All history objects, the oldest chain first, including expired ones that are not deleted yet."""
        found = self._objects.list(keys.history_prefix(database))
        # In batches, as the object store reads several objects in parallel.
        while batch := list(itertools.islice(found, _BATCH)):
            contents = self._objects.read_many([stat.key for stat in batch])
            for stat, content in zip(batch, contents, strict=True):
                if content is not None:
                    yield Departed(stat.key, stat.modified_ms, _decode(stat.key, content))

    def list_restore_points(self, database: DatabaseId, head: Head) -> list[RestorePoint]:
        """Every version that can be restored, oldest first, the current one last.

        Includes versions older than the limit that no sweep has deleted yet.
        """
        points: dict[int, RestorePoint] = {}
        chains = [departed.departure.chain for departed in self.list_departed(database)]
        for chain in [*chains, head.chain]:
            for at, entry in enumerate(chain):
                # Of several chains that lead to the version, the shortest one is read the fastest.
                if entry.last not in points or at + 1 < len(points[entry.last].chain):
                    points[entry.last] = RestorePoint(entry.last, entry.time_ms, chain[: at + 1])
        return sorted(points.values())


def find_needless(departed: Sequence[Departed], head: Head, now_ms: int, limits: Limits) -> set[str]:
    """Keys of the history objects that a thinned history does without.

    It has every version of the last day, of the last week the last one of each hour, and of the rest the last
    one of each day. A history object stays if it alone leads to such a version, and all versions on its way
    stay with it.
    """
    times = {entry.last: entry.time_ms for found in departed for entry in found.departure.chain}
    times |= {entry.last: entry.time_ms for entry in head.chain}
    last_of: dict[tuple[int, int], int] = {}
    for version in sorted(times):
        age_ms = now_ms - times[version]
        if age_ms < limits.every_version_ms:
            last_of[0, version] = version
        else:
            span_ms = _HOUR_MS if age_ms < limits.hourly_ms else _DAY_MS
            last_of[span_ms, times[version] // span_ms] = version
    missing = set(last_of.values()) - {entry.last for entry in head.chain}
    needless = set[str]()
    for found in sorted(departed, key=lambda each: each.key, reverse=True):
        reached = {entry.last for entry in found.departure.chain}
        if missing.isdisjoint(reached):
            needless.add(found.key)
        missing -= reached
    return needless


def find_restore_point(points: Sequence[RestorePoint], version: int) -> RestorePoint:
    """The point of a version. Raises: NotFound, with the range of versions that are kept."""
    for point in points:
        if point.version == version:
            return point
    kept = f"versions {points[0].version} to {points[-1].version} are kept" if points else "there are none"
    raise NotFound(f"version {version} is not in the history: {kept}")


def _decode(key: str, content: bytes) -> ArchivedChain:
    try:
        return msgspec.msgpack.decode(envelope.unseal(key, envelope.HISTORY, content), type=ArchivedChain)
    except msgspec.MsgspecError as exc:
        raise Corrupt(key, "a departure", str(exc)) from exc


def find_start(chain: tuple[ChainEntry, ...]) -> int:
    """The version of the chain's snapshot: the oldest one to which its deltas apply. Raises: Corrupt."""
    if not chain or chain[0].kind != EntryKind.SNAPSHOT:
        raise Corrupt("chain", "a snapshot at its start", chain[:1])
    return chain[0].last
