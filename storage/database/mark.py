"""A mark that tells when the head records, or the objects, have been lost or put back to an earlier moment.

Heads and objects are kept in two places (a file and a folder, a table and a bucket), so one can be lost or
restored without the other. A head record of the store itself, under the user id `.store`, counts the starts
of workers and the runs of maintenance; an object `upkeep/heads/<count>` is written after each step of it. The
object of a count can only be there if the record was at it, so the record is never behind the objects, and
ahead of them only by the steps that are being taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from storage.database import keys
from storage.errors import Conflict
from storage.heads.base import RECENT_KEPT, Flip, HeadStore
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
"""More workers than ever start at the same time, each with a step that is not done yet."""


def list_databases(heads: HeadStore, user: UserId | None = None) -> Iterator[DatabaseId]:
    """The databases of users that have a head record: as `HeadStore.list`, without the store's own."""
    return (database for database in heads.list(user) if database.user != STORE.user)


class HeadsMark:
    """The mark of one store."""

    def __init__(self, heads: HeadStore, objects: ObjectStore, nonce: Callable[[], str]) -> None:
        self._heads, self._objects, self._nonce = heads, objects, nonce

    def find_fault(self) -> str | None:
        """What is wrong, for the operator; None if records and objects belong together.

        Costs a read of one record and a listing of an object for each step since maintenance last ran.
        """
        # The object first: a step that comes between is then one that the record is ahead.
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
        """Take a step, by which a later loss is noticed. To be called only where nothing is wrong.

        With `accept` whatever is there counts as right from here on.
        """
        head = self._heads.find(STORE) or EMPTY_HEAD
        if accept:
            self._objects.delete([_key(count) for count in self._list() if count > head.version])
        count, nonce = head.version + 1, self._nonce()
        entry = _entry(count, head.token, nonce, now_ms)
        flip = Flip(
            token=head.token, base_version=head.version, session_id=None, seq=0, commit_id=nonce,
            answer=b"", time_ms=now_ms, stamps={}, entry=entry,
        )  # fmt: skip
        try:
            self._heads.flip(STORE, flip)
        except Conflict:
            return  # another process takes the same step
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
        """Remove the objects of all steps but the newest; only maintenance has the right to delete."""
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
