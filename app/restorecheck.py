"""The standing check: each maintenance restores a share of the users from stored objects alone, and compares.

A restore goes into an empty folder, so that nothing local can take the place of a damaged object. Everything
is compared: the digest of each object and of the whole database, SQLite's integrity check, counts against
rows, the history, and the content of each media file. Every user's turn comes once in `ROUND_MS` by the
object store's clock, however often maintenance runs, and each time until what was found is gone. How far the
check is, and what it found, is kept in the store (`storage.database.maintenance.runs.CheckLog`).
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from app.examination import Examination
from app.maintenance import InParallel, Shard, Summary
from storage.collection.schema import configure
from storage.database.limits import Limits
from storage.database.maintenance.mark import list_databases
from storage.database.maintenance.runs import Checked, CheckLog
from storage.database.store import DatabaseStore
from storage.errors import Conflict, Corrupt, NotFound, StorageError, Unavailable
from storage.heads.base import HeadStore
from storage.media.blobs import Blobs
from storage.objects.base import ObjectStore
from storage.types import DatabaseId, DatabaseKind, Offload, UserId

_DAY_MS: Final = 24 * 3_600_000
ROUND_MS: Final = 25 * _DAY_MS
"""In which every user is checked; five days less than the 30 that are promised, for runs that fail."""
_AT_ONCE: Final = 50
"""Users between two notes of how far a run is."""
_TRIES: Final = 3

log = logging.getLogger("ankisyncd.upkeep")


class Verified(msgspec.Struct, frozen=True):
    """What the standing checks of all shards have found."""

    whole_ms: int | None
    """Every user has been restored and compared since then; None before the first round is finished."""
    last_ms: int | None
    """The last restore that was sound."""
    faults: dict[str, str]
    """What is wrong with which database (`user/kind`)."""


class RestoreCheck:
    """Checks the users whose turn it is."""

    def __init__(  # noqa: PLR0913 - collaborators by name
        self,
        heads: HeadStore,
        objects: ObjectStore,
        blobs: Blobs,
        limits: Limits,
        *,
        scratch: Path,
        nonce: Callable[[], str],
        offload: Offload[Any],
        in_parallel: InParallel = map,
    ) -> None:
        self._heads, self._objects, self._blobs, self._limits = heads, objects, blobs, limits
        self._scratch, self._nonce, self._offload = scratch, nonce, offload
        self._in_parallel = in_parallel

    def run(self, now_ms: int, shard: Shard, summary: Summary) -> None:
        """Check the next share of a shard's users, and note in `summary` what was found.

        `now_ms` is the time by the object store's clock. A run that is broken off, or that meets a store that
        is away, is gone on with by the next one.
        """
        check_log = CheckLog(self._objects, self._nonce, shard.number, shard.count)
        state = _read(check_log)
        users = self._list_users(shard)
        rest = [user for user in users if user > state.after] if state.round_ms else users
        passed_ms = now_ms - state.seen_ms if state.seen_ms else _DAY_MS
        share = max(1, math.ceil(len(users) * max(passed_ms, 0) / ROUND_MS))
        state = replace(state, seen_ms=now_ms, round_ms=state.round_ms or now_ms)
        turn = rest[:share]
        again = sorted(
            {UserId(name.partition("/")[0]) for name in state.faults}.intersection(users) - set(turn)
        )
        try:
            state = self._check(again, now_ms, state)
            for at in range(0, len(turn), _AT_ONCE):
                batch = turn[at : at + _AT_ONCE]
                state = replace(self._check(batch, now_ms, state), after=batch[-1])
                summary.verified += len(batch)
                check_log.write(state)
        except Unavailable as exc:
            log.warning("the standing check stopped: %s", exc)
        if not any(user > state.after for user in users):
            faults = {name: text for name, text in state.faults.items() if name.partition("/")[0] in users}
            state = replace(
                state, after="", round_ms=0, whole_ms=state.round_ms, users=len(users), faults=faults
            )
        check_log.write(state)
        summary.unsound.extend(f"{database}: {fault}" for database, fault in sorted(state.faults.items()))

    def _list_users(self, shard: Shard) -> list[UserId]:
        return sorted({database.user for database in list_databases(self._heads) if shard.has(database)})

    def _check(self, users: list[UserId], now_ms: int, state: Checked) -> Checked:
        """The state after some users. Raises: Unavailable."""
        faults, last_ms = dict(state.faults), state.last_ms
        databases = [DatabaseId(user, kind) for user in users for kind in DatabaseKind]
        find_faults = partial(self._find_faults, now_ms=now_ms)
        for database, found in zip(databases, self._in_parallel(find_faults, databases), strict=True):
            if found:
                log.error("restored from its objects, %s is not sound: %s", database, found)
                faults[str(database)] = found
            else:
                faults.pop(str(database), None)
                last_ms = now_ms
        return replace(state, faults=faults, last_ms=last_ms)

    def _find_faults(self, database: DatabaseId, *, now_ms: int) -> str:
        """What is wrong with a database, or nothing. Raises: Unavailable."""
        for _ in range(_TRIES - 1):
            try:
                return self._examine(database, now_ms)
            except (Conflict, NotFound):
                continue  # its user syncs just now
            except Corrupt as exc:
                return str(exc)
        try:
            return self._examine(database, now_ms)
        except Unavailable:
            raise
        except StorageError as exc:
            return str(exc)

    def _examine(self, database: DatabaseId, now_ms: int) -> str:
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix="check-") as folder:
            databases = DatabaseStore(
                self._heads,
                self._objects,
                Path(folder),
                offload=self._offload,
                clock_ms=lambda: now_ms,
                nonce=self._nonce,
                configure=configure,
                limits=self._limits,
            )
            try:
                finding = Examination(databases, self._blobs, self._offload).examine(
                    database, read_media=True
                )
            finally:
                databases.close()
        return "; ".join(finding.faults)


def _read(check_log: CheckLog) -> Checked:
    try:
        return check_log.read()
    except (Corrupt, NotFound):
        log.exception("what is known of the standing check cannot be read: it begins anew")
        return Checked()


def read_verified(objects: ObjectStore, nonce: Callable[[], str]) -> Verified:
    """What the standing checks have found; for `status` and metrics. A listing, and two calls a shard."""
    shards = {stat.key.split("/")[2] for stat in objects.list(CheckLog.PREFIX)}
    by_count: dict[int, list[Checked]] = {}
    for shard in shards:
        number, _, count = shard.partition("-of-")
        by_count.setdefault(int(count), []).append(_read(CheckLog(objects, nonce, int(number), int(count))))
    if not by_count:
        return Verified(None, None, {})
    # Where maintenance has been cut into another number of shards, the states of the old ones are left.
    shards_now, states = max(by_count.items(), key=lambda item: max(state.seen_ms for state in item[1]))
    whole_ms = min(state.whole_ms for state in states) if len(states) == shards_now else 0
    last_ms = max(state.last_ms for state in states)
    faults = {name: text for state in states for name, text in state.faults.items()}
    return Verified(whole_ms or None, last_ms or None, faults)


def lines_of(verified: Verified) -> list[str]:
    """What `status` says of it."""
    if verified.last_ms is None:
        lines = ["No restore has been verified yet."]
    else:
        lines = [f"Last verified restore: {_moment(verified.last_ms)}; {_since(verified.whole_ms)}."]
    lines += [f"Error: {name}: {fault}" for name, fault in sorted(verified.faults.items())]
    return lines


def _since(whole_ms: int | None) -> str:
    if whole_ms is None:
        return "not yet of every user"
    return f"of every user since {_moment(whole_ms)}"


def _moment(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
