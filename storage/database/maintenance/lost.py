"""Finds out from a database's objects whether its head record was lost, or restored from an older copy.

Used by sweeps, by `doctor`, and by maintenance. The version is part of an object's key, and some objects can
only exist if the head was once at their version.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import msgspec

from storage.database.format import keys
from storage.heads.base import HeadStore
from storage.objects.base import ObjectStat, ObjectStore
from storage.types import EMPTY_HEAD, DatabaseId, Head


class Evidence(msgspec.Struct, frozen=True):
    """Objects that are newer than a head."""

    text: str
    is_proof: bool
    """If False, an unfinished commit could have left the objects, too."""
    is_likely: bool = True
    """If False, an unfinished commit is as likely: one is left whenever a worker dies in the middle."""


def find_evidence(database: DatabaseId, head: Head | None, stats: Iterable[ObjectStat]) -> Evidence | None:
    """Evidence that there was a later head than this one, or None.

    `stats` must have been listed before the head was read, else a commit between the two looks like proof.
    With the head at version v and token t, objects are judged as follows:

        object                            judgement
        version v + 2 or later            proof: it is written only while the head is at v + 1 or later
        history of a later revision       proof: it is written only while the chain has that revision
        version v + 1, token above t      likely; the alternative is a power cut within a commit
        version v + 1, token t            usually a commit that is in progress or has failed
        all others                        nothing
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
    """The objects of versions and chain revisions later than the head's."""
    newer = []
    for stat in stats:
        name = keys.parse(database, stat.key)
        if name is not None and (
            (name.version or 0) > head.version or (name.chain_revision or 0) > head.chain_revision
        ):
            newer.append(stat)
    return newer


class Lost(msgspec.Struct, frozen=True):
    """A database whose head record is missing, or older than its objects."""

    database: DatabaseId
    has_record: bool
    evidence: Evidence


def list_lost(
    heads: HeadStore, objects: ObjectStore, *, go_on: Callable[[], bool] = lambda: True
) -> Iterator[Lost]:
    """Examine the objects of all databases, ordered by user, as long as `go_on()` is true."""
    for database, stats in by_database(objects):
        if not go_on():
            return
        head = heads.find(database)  # after its objects were listed: see `find_evidence`
        evidence = find_evidence(database, head, stats)
        if evidence is not None:
            yield Lost(database, head is not None, evidence)


def list_unlisted(
    heads: HeadStore, objects: ObjectStore, listed: frozenset[DatabaseId]
) -> Iterator[tuple[DatabaseId, bool]]:
    """(database, whether it has a head record) of those that have objects but are not in `listed`.

    Those without a record are given only if their objects prove that there was one; the remains of a first
    upload that failed do not.
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
