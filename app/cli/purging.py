"""Deletes all that is kept of one user, and tells what must remain for a while and until when.

May be broken off at any point: the same call goes on. Media contents go before the index that names them, so
that a second run still knows which they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from app.auth.hostkeys import HostKeys, KeyRecord
from app.main import Stores
from storage.database.format.keys import prefix
from storage.database.maintenance.mark import list_databases
from storage.errors import StorageError
from storage.media.blobs import key_of
from storage.media.sweep import read_contents
from storage.objects.now import read_clock
from storage.types import DatabaseId, DatabaseKind, UserId, run_inline

if TYPE_CHECKING:
    from storage.objects.s3versions import S3Versions  # would import the SDK

_DAY_MS: Final = 24 * 3_600_000
_AT_ONCE: Final = 500
KEY_LIFE_S: Final = 65
"""Longer than a revoked key lives at servers that remember keys (app/auth/README.md)."""

Progress = Callable[[Iterable[DatabaseId], int, str], Iterable[DatabaseId]]
"""Gives the items on, and shows how far it is: items, how many, and what is done with them."""


class Plan(msgspec.Struct, frozen=True):
    """What there is of a user."""

    user: UserId
    keys: tuple[KeyRecord, ...]
    databases: tuple[DatabaseId, ...]
    """That have a head record."""
    objects: int
    object_bytes: int
    contents: tuple[bytes, ...]
    """SHA-256 of the media that this user has, or had within the history, and no other user."""
    shared: int
    """Media contents that other users have as well."""
    old_versions: int | None = 0
    """Versions in the bucket of the databases' objects, current ones too; None without the right to list
    them, so that they will remain."""
    unknown: str = ""
    """Why it cannot be told which contents are this user's alone; then none is deleted here."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is kept."""
        return not (self.keys or self.databases or self.objects or self.old_versions)


class Remaining(msgspec.Struct, frozen=True):
    """Something that is not gone yet."""

    what: str
    until_ms: int | None
    """None: this server cannot tell."""
    note: str


class Purged(msgspec.Struct):
    """What was deleted."""

    keys: int = 0
    objects: int = 0
    contents: int = 0
    versions: int = 0
    remaining: list[Remaining] = []


@dataclass(frozen=True, slots=True)
class Purger:
    """Works beside running servers.

    `versions` are those of the bucket; None if there is no bucket. `key_life_s` is how long a revoked key may
    still be good at servers.
    """

    stores: Stores
    keys: HostKeys
    versions: S3Versions | None
    clock_ms: Callable[[], int]
    progress: Progress
    key_life_s: int
    sleep: Callable[[float], None]

    def plan(self, user: UserId) -> Plan:
        """Look at everything; reads the media index of each user, as contents are shared."""
        found = [
            stat for kind in DatabaseKind for stat in self.stores.objects.list(prefix(DatabaseId(user, kind)))
        ]
        own: set[bytes] = set()
        unknown, count = "", 0
        try:
            own = self._contents(DatabaseId(user, DatabaseKind.MEDIA))
            count = len(own)
            others = [database for database in list_databases(self.stores.heads) if _is_other(database, user)]
            for database in self.progress(others, len(others), "Comparing with other users' media"):
                if not own:
                    break
                own -= self._contents(database)
        except StorageError as exc:
            own, unknown = set(), f"a media index cannot be read: {exc}"
        return Plan(
            user,
            tuple(self.keys.list(user)),
            tuple(self.stores.heads.list(user)),
            len(found),
            sum(stat.size_bytes for stat in found),
            tuple(sorted(own)),
            count - len(own) if not unknown else 0,
            self._count_versions(user),
            unknown,
        )

    def purge(self, plan: Plan, close_account: Callable[[], None], *, at_once: bool) -> Purged:
        """Delete all of it, the account first, so that no device logs in again meanwhile.

        A media content that was stored within the last day may be what another user's upload, which runs
        just now, relies on: it is left to the daily maintenance. Nor is anything deleted while a device could
        write it again with a key that a server remembers. With `at_once` neither is waited for.
        Raises: DeletionUnsafe if this machine's clock is wrong.
        """
        done = Purged()
        now_ms = read_clock(self.stores.objects, self.clock_ms)
        close_account()
        self.keys.revoke_all(plan.user)
        done.keys = len(plan.keys)
        if plan.keys and self.key_life_s and not at_once:
            self.sleep(self.key_life_s)
        elif plan.keys and self.key_life_s:
            until_ms = now_ms + self.key_life_s * 1000
            what = "keys that servers remember"
            done.remaining.append(
                Remaining(what, until_ms, "a device that syncs now writes again: run this once more then")
            )
        before_ms = now_ms + 2 * _DAY_MS if at_once else now_ms - self.stores.limits.sweep_grace_ms
        left = self._delete_contents(plan, before_ms, done)
        for kind in DatabaseKind:
            self.stores.databases.erase(DatabaseId(plan.user, kind))
        done.objects = plan.objects
        self._delete_versions(plan, left, done, now_ms)
        if left:
            until_ms = now_ms + self.stores.limits.sweep_grace_ms
            what = f"{len(left)} media contents that were stored within the last day"
            done.remaining.append(
                Remaining(what, until_ms, "the next full maintenance after that deletes them")
            )
        if plan.unknown:
            done.remaining.append(
                Remaining("media contents", None, f"{plan.unknown}; full maintenance deletes them")
            )
        return done

    def find_rest(self, user: UserId) -> bool:
        """Whether something is kept again: a sync that ran meanwhile may have written once more."""
        plan = self.keys.list(user), self.stores.heads.list(user)
        objects = (self.stores.objects.list(prefix(DatabaseId(user, kind))) for kind in DatabaseKind)
        return any(next(iter(found), None) is not None for found in (*plan, *objects))

    def _count_versions(self, user: UserId) -> int | None:
        if self.versions is None:
            return 0
        try:
            if not self.versions.are_kept():
                return 0
            prefixes = [prefix(DatabaseId(user, kind)) for kind in DatabaseKind]
            return sum(1 for start in prefixes for _ in self.versions.list(start))
        except StorageError:
            return None

    def _contents(self, database: DatabaseId) -> set[bytes]:
        """All that a media index names or remembers."""
        with self.stores.locks(database):
            return set(
                read_contents(self.stores.databases, database, 0, run_inline, is_doubtful=False).sha256s
            )

    def _delete_contents(self, plan: Plan, before_ms: int, done: Purged) -> set[str]:
        """Delete contents that are old enough; the keys of those that are there still."""
        left: set[str] = set()
        for batch in _batches(key_of(sha256) for sha256 in plan.contents):
            gone = set(self.stores.objects.delete_old(batch, before_ms))
            done.contents += len(gone)
            left |= {key for key in batch if key not in gone and self.stores.objects.find(key) is not None}
        return left

    def _delete_versions(self, plan: Plan, left: set[str], done: Purged, now_ms: int) -> None:
        if self.versions is None:
            return
        versions = self.versions
        try:
            if not versions.are_kept():
                return
            heads = [f"heads/{plan.user}!{kind.value}" for kind in DatabaseKind]
            keys = [f"hostkeys/{record.hash.hex()}" for record in plan.keys]
            blobs = [key for sha256 in plan.contents if (key := key_of(sha256)) not in left]
            for kind in DatabaseKind:
                done.versions += versions.delete(versions.list(prefix(DatabaseId(plan.user, kind))))
            for key in (*heads, *keys, *blobs):
                done.versions += versions.delete(versions.list(key, is_key=True))
        except StorageError as exc:
            until_ms, note = None, f"they could not be deleted: {exc}"
            try:
                days = versions.kept_days()
                until_ms = None if days is None else now_ms + days * _DAY_MS
            except StorageError:
                note += "; nor can it be told when the bucket does so"
            done.remaining.append(Remaining("old versions in the bucket", until_ms, note))


def _is_other(database: DatabaseId, user: UserId) -> bool:
    return database.kind is DatabaseKind.MEDIA and database.user != user


def _batches(keys: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(itertools.islice(keys, _AT_ONCE)):
        yield batch
