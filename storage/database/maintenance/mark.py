"""Detects that all head records, or all objects, were lost or restored from an older copy.

Used by `app.main` when a worker starts, and by maintenance. Heads and objects are kept in two places (a file
and a folder, a table and a bucket), so one can be lost without the other. A counter is kept in both: the
version of a head record under the user id `.store`, and then an object `upkeep/heads/<count>`. It is
advanced by each start of a worker and each run of maintenance.

    record = objects            fine
    record ahead by a few       fine: steps in progress, or processes that died between the two writes
    record behind the objects   the head records are older
    record far ahead            the objects are older
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from storage.database.format import keys
from storage.errors import Conflict
from storage.heads.base import RECENT_KEPT, HeadStore, HeadUpdate
from storage.objects.base import ObjectStore
from storage.types import (
    EMPTY_HEAD,
    ChainEntry,
    DatabaseId,
    DatabaseKind,
    EntryKind,
    Head,
    Recent,
    UserId,
)

STORE: Final = DatabaseId(UserId(".store"), DatabaseKind.COLLECTION)
PREFIX: Final = "upkeep/heads/"
_STEPS_AT_ONCE: Final = 64
"""How far the record may be ahead: more than the number of workers that ever start at the same time."""


def list_databases(heads: HeadStore, user: UserId | None = None) -> Iterator[DatabaseId]:
    """The databases of users that have a head record: as `HeadStore.list`, without the store's own."""
    return (database for database in heads.list(user) if database.user != STORE.user)


class HeadsMark:
    """The mark of one store."""

    def __init__(self, heads: HeadStore, objects: ObjectStore, nonce: Callable[[], str]) -> None:
        self._heads, self._objects, self._nonce = heads, objects, nonce

    def find_fault(self) -> str | None:
        """A description of the fault for the operator, or None.

        Costs the read of one record, and a listing of one object per step since maintenance last ran.
        """
        # Objects first: if another process takes a step meanwhile, the record appears to be ahead, not
        # behind.
        newest = max(self._list(), default=0)
        head = self._heads.find(STORE) or EMPTY_HEAD
        if newest > head.version:
            what = "of an earlier moment than" if head.version else "missing or empty beside"
            return (
                f"the head records are {what} the stored objects (mark {head.version} beside {newest}): "
                "heads.sqlite, or the table, was lost or restored from an older copy"
            )
        if newest < head.version - _STEPS_AT_ONCE:
            what = "of an earlier moment than" if newest else "missing beside"
            return f"the stored objects are {what} the head records (mark {newest} beside {head.version})"
        if head.version == 0 and next(list_databases(self._heads), None) is None and self._has_objects():
            return "there are no head records at all, but stored objects of databases"
        return None

    def advance(self, now_ms: int, *, accept: bool = False) -> None:
        """Advance the counter by one. Call it only if `find_fault` found none, or with `accept`.

        With `accept` the present state counts as right from now on: objects ahead of the record are deleted.
        """
        head = self._heads.find(STORE) or EMPTY_HEAD
        if accept:
            self._objects.delete([_key(count) for count in self._list() if count > head.version])
        count, nonce = head.version + 1, self._nonce()
        entry = _entry(count, head.token, nonce, now_ms)
        update = HeadUpdate(
            token=head.token, base_version=head.version, session_id=None, seq=0, commit_id=nonce,
            answer=b"", time_ms=now_ms, stamps={}, entry=entry,
        )  # fmt: skip
        try:
            # A commit like any other: only one of several processes at the same count succeeds.
            self._heads.advance_head(STORE, update)
        except Conflict:
            return  # another process has just taken this step
        self._objects.put(_key(count), b"the head records were at this count of .store\n")

    def rebuild(self) -> None:
        """Make the record anew from the objects if it is lost or behind them; to be followed by `advance`.

        To be called when all other records have been made anew: from here on requests are served.
        """
        newest, head = max(self._list(), default=0), self._heads.find(STORE)
        known = head or EMPTY_HEAD
        if newest <= known.version:
            return
        entry = _entry(newest, known.token, self._nonce(), 0)
        recent = (Recent("", b"", 0),) * min(newest, RECENT_KEPT)
        rebuilt = Head(
            newest, known.token + 1, known.chain_revision + newest, 0, 0, 0, {}, (entry,), recent, None
        )
        self._heads.replace_head(STORE, head, rebuilt)

    def remove_older(self) -> None:
        """Remove the objects of all steps but the last. Called by maintenance, which may delete objects."""
        counts = sorted(self._list())
        self._objects.delete([_key(count) for count in counts[:-1]])

    def _list(self) -> list[int]:
        names = (stat.key.removeprefix(PREFIX) for stat in self._objects.list(PREFIX))
        return [int(name, 16) for name in names if len(name) == 16 and set(name) <= set("0123456789abcdef")]

    def _has_objects(self) -> bool:
        return next(iter(self._objects.list(keys.DATABASES)), None) is not None


def _entry(count: int, token: int, nonce: str, now_ms: int) -> ChainEntry:
    """The one entry of the record's chain; there is no object to it."""
    return ChainEntry(EntryKind.SNAPSHOT, count, count, token, nonce, 0, bytes(32), 0, 0, 0, (nonce,), now_ms)


def _key(count: int) -> str:
    return f"{PREFIX}{count:016x}"
