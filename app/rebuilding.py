"""Makes head records anew from the stored objects: `ankisyncctl rebuild-heads`.

For stores whose head records (`heads.sqlite`, the table) are lost, or were put back to an earlier moment.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import partial

import apsw
import msgspec

from app.maintenance import InParallel
from storage.collection.stamps import read_stamps
from storage.database.format import keys
from storage.database.maintenance.lost import by_database, find_evidence
from storage.database.maintenance.mark import HeadsMark
from storage.database.rebuild import Plan, list_plans, make_head
from storage.database.store import Checkout, DatabaseStore
from storage.errors import Corrupt, HeadMoved, NotFound, StorageError
from storage.heads.base import HeadStore
from storage.media.index import MediaIndex
from storage.objects.base import ObjectStat, ObjectStore
from storage.types import DatabaseId, DatabaseKind, Head, UserId

_TRIES = 3
_AT_ONCE = 200
"""Databases whose listing is held in memory."""


class State(StrEnum):
    """What became of one head record."""

    RIGHT = "right"
    """No object is newer: it is left as it is."""
    REBUILT = "rebuilt"
    """It names the last commit again."""
    OLDER = "older"
    """It names the newest version that is whole; later ones are damaged or missing."""
    SPLIT = "split"
    """There were commits on the old record and on the newer objects: left as it is."""
    FAILED = "failed"
    """No version can be read, or a store is away: left as it is."""


class Outcome(msgspec.Struct, frozen=True):
    """One database."""

    database: DatabaseId
    state: State
    found_version: int | None
    """Of the record as it was; None if there was none."""
    version: int
    """Of the record as it is, or would be."""
    newest_version: int
    """That any object is of."""
    notes: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether nothing that was committed is missing."""
        return self.state in {State.RIGHT, State.REBUILT}


class Rebuilding:
    """Goes through the objects of all databases, or of one user's."""

    def __init__(  # noqa: PLR0913 - collaborators by name
        self,
        heads: HeadStore,
        objects: ObjectStore,
        databases: DatabaseStore,
        mark: HeadsMark,
        *,
        clock_ms: Callable[[], int],
        in_parallel: InParallel = map,
    ) -> None:
        self._heads, self._objects, self._databases, self._mark = heads, objects, databases, mark
        self._clock_ms, self._in_parallel = clock_ms, in_parallel

    def run(self, user: UserId | None = None, *, is_dry: bool = False) -> Iterator[Outcome]:
        """Make anew each record that is lost or older than its objects; lazy.

        May be broken off and run again: a record that is right is left alone. If all users were taken and
        every store answered, the mark of the head records is put right at the end, so that workers serve.
        """
        prefix = keys.DATABASES if user is None else keys.user_prefix(user)
        was_away = False
        found = by_database(self._objects, prefix)
        while batch := list(itertools.islice(found, _AT_ONCE)):
            for outcome, away in self._in_parallel(partial(self._tend, is_dry=is_dry), batch):
                was_away = was_away or away
                yield outcome
        if user is None and not is_dry and not was_away:
            self._mark.rebuild()
            if self.find_fault() is None:
                self._mark.advance(self._clock_ms())

    def find_fault(self) -> str | None:
        """Why requests are not served: objects may be older than the records, too."""
        return self._mark.find_fault()

    def _tend(self, pair: tuple[DatabaseId, list[ObjectStat]], *, is_dry: bool) -> tuple[Outcome, bool]:
        """What became of a database, and whether a store was away."""
        database, stats = pair
        try:
            for _ in range(_TRIES - 1):
                try:
                    return self._rebuild(database, stats, is_dry=is_dry), False
                except HeadMoved:
                    stats = list(self._objects.list(keys.prefix(database)))
            return self._rebuild(database, stats, is_dry=is_dry), False
        except StorageError as exc:
            return Outcome(database, State.FAILED, None, 0, 0, (str(exc),)), True

    def _rebuild(self, database: DatabaseId, stats: list[ObjectStat], *, is_dry: bool) -> Outcome:
        head = self._heads.find(database)  # after its objects were listed
        at = None if head is None else head.version
        if not _is_behind(database, head, stats):
            return Outcome(database, State.RIGHT, at, at or 0, at or 0)
        inventory = self._databases.take_inventory(database, stats)
        newest, notes = inventory.newest_version, list(inventory.faults)
        for plan, bad in list_plans(inventory):
            if head is not None and plan.version < head.version:
                break
            if head is not None and _is_split(head, plan):
                text = f"the record's version {head.version} and version {plan.version} are of two lines"
                return Outcome(database, State.SPLIT, at, head.version, newest, (*notes, text))
            try:
                stamps = self._read_stamps(database, plan)
            except (Corrupt, NotFound) as exc:
                notes.append(str(exc))
                bad.extend(_named_in(exc, database, plan))
                continue
            if not is_dry:
                answer = b"%d" % stamps["mod"] if database.kind is DatabaseKind.COLLECTION else b""
                self._heads.replace_head(database, head, make_head(plan, inventory, head, stamps, answer))
            state = State.REBUILT if plan.version >= newest else State.OLDER
            return Outcome(database, state, at, plan.version, newest, (*notes, *plan.doubts))
        if head is None and not inventory.found and not notes:
            return Outcome(database, State.RIGHT, None, 0, 0)  # what a sync that never committed has left
        notes.append("no version after the record's can be read" if head else "no version can be read")
        return Outcome(database, State.FAILED, at, at or 0, newest, tuple(notes))

    def _read_stamps(self, database: DatabaseId, plan: Plan) -> dict[str, int | bool]:
        """Build the database from its objects and read its stamps. Raises: NotFound, Corrupt."""
        checkout = self._databases.rebuild(database, plan.chain)
        try:
            return stamps_of(checkout)
        finally:
            self._databases.discard(checkout)


def stamps_of(checkout: Checkout) -> dict[str, int | bool]:
    """The stamps of a version by its rows. Raises: Corrupt."""
    try:
        if checkout.database.kind is DatabaseKind.COLLECTION:
            return read_stamps(checkout.connection)
        return MediaIndex(checkout.connection).stamps()
    except apsw.Error as exc:
        raise Corrupt(str(checkout.database), "a sound database", str(exc)) from exc


def _is_behind(database: DatabaseId, head: Head | None, stats: list[ObjectStat]) -> bool:
    """Whether objects are of later versions than the record.

    An object of the next version may also be that of a commit that failed, or that is being done. To take it
    for committed is right all the same: it is as if the answer to the client had been lost. Under an older
    token than the record's it cannot have been committed.
    """
    if head is None:
        return bool(stats)
    names = [name for stat in stats if (name := keys.parse(database, stat.key)) is not None]
    if any((name.version or 0) > head.version and name.token >= head.token for name in names):
        return True
    evidence = find_evidence(database, head, stats)
    return evidence is not None and evidence.is_proof


def _is_split(head: Head, plan: Plan) -> bool:
    """Whether the record's version is another one than that which led to the plan's."""
    return head.version > 0 and plan.checksums.get(head.version, head.checksum) != head.checksum


def _named_in(exc: Corrupt | NotFound, database: DatabaseId, plan: Plan) -> list[str]:
    """Those objects of a chain that an error names."""
    return [key for entry in plan.chain if (key := keys.entry_key(database, entry)) in str(exc)]
