"""What the objects beside a head record prove about it: that it is missing, or of an earlier moment.

Used at a sweep, by `doctor`, and at the start. Objects are named after the versions that they belong to, and
some of them can only be there if the head was once at that version.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import msgspec

from storage.database import keys
from storage.heads.base import HeadStore
from storage.objects.base import ObjectStat, ObjectStore
from storage.types import EMPTY_HEAD, DatabaseId, Head


class Evidence(msgspec.Struct, frozen=True):
    """Objects that are newer than a head."""

    text: str
    is_proof: bool
    """Else it may also be what a commit that was not done has left."""
    is_likely: bool = True
    """Else a commit that failed is as likely: that happens whenever a worker dies in the middle of one."""


def find_evidence(database: DatabaseId, head: Head | None, stats: Iterable[ObjectStat]) -> Evidence | None:
    """Whether there was a later head than this one; None where nothing says so.

    `stats` must have been listed before the head was read, else a commit between the two looks like proof.

    Version `v + 2` is only written when `v + 1` is the head's, and a history object only names the chain of a
    revision that the head has. Version `v + 1` under the head's token is as a rule a commit that is not done
    yet or failed, until the next sync has a higher token. Under a later token it tells of a lost head, or
    that a machine lost power within a commit.
    """
    known = head or EMPTY_HEAD
    running = known.session.token if known.session is not None else None
    doubt: Evidence | None = None
    for stat in stats:
        name = keys.parse(database, stat.key)
        if name is None:
            continue
        if name.chain_revision is not None:
            if name.chain_revision > known.chain_revision:
                text = f"{stat.key} is of chain revision {name.chain_revision}"
                return Evidence(f"{text}, the head record of {known.chain_revision}", is_proof=True)
        elif name.version is not None and name.version > known.version:
            where = "there is no head record" if head is None else f"the head is at version {known.version}"
            text = f"{stat.key} is of version {name.version}, but {where}"
            if name.version > known.version + 1:
                return Evidence(text, is_proof=True)
            if name.token >= known.token and name.token != running:
                doubt = Evidence(text, is_proof=False, is_likely=name.token > known.token)
    return doubt


def list_newer(database: DatabaseId, head: Head, stats: Iterable[ObjectStat]) -> list[ObjectStat]:
    """The objects that belong to later versions than the head's."""
    newer = []
    for stat in stats:
        name = keys.parse(database, stat.key)
        if name is not None and (
            (name.version or 0) > head.version or (name.chain_revision or 0) > head.chain_revision
        ):
            newer.append(stat)
    return newer


class Lost(msgspec.Struct, frozen=True):
    """A database whose objects say that its head record is missing, or older than they are."""

    database: DatabaseId
    has_record: bool
    evidence: Evidence


def list_lost(
    heads: HeadStore, objects: ObjectStore, *, go_on: Callable[[], bool] = lambda: True
) -> Iterator[Lost]:
    """Go through all objects of all databases, by user, as long as `go_on` says so."""
    for database, stats in by_database(objects):
        if not go_on():
            return
        head = heads.find(database)  # after its objects were listed
        evidence = find_evidence(database, head, stats)
        if evidence is not None:
            yield Lost(database, head is not None, evidence)


def list_unlisted(
    heads: HeadStore, objects: ObjectStore, listed: frozenset[DatabaseId]
) -> Iterator[tuple[DatabaseId, bool]]:
    """Databases with objects that are not among `listed`, and whether they have a head record all the same.

    Of those without one only such are given whose objects prove that they had a version: what a first upload
    that failed has left is no proof.
    """
    for database, stats in by_database(objects):
        if database in listed:
            continue
        if heads.find(database) is not None:
            yield database, True
        elif (evidence := find_evidence(database, None, stats)) is not None and evidence.is_proof:
            yield database, False


def by_database(
    objects: ObjectStore, prefix: str = keys.DATABASES
) -> Iterator[tuple[DatabaseId, list[ObjectStat]]]:
    """The objects of each database below a prefix, by user; lazy."""
    found = ((keys.database_of(stat.key), stat) for stat in objects.list(prefix))
    for database, group in itertools.groupby(found, key=lambda pair: pair[0]):
        if database is not None:
            yield database, [stat for _, stat in group]
