"""Deletes the objects of a database that neither head nor history refer to, and to which no writer can refer.

Called by `storage.database.store` for maintenance. Objects are kept if they are young, if their key has
another form than those of `keys`, or if the token in the key is still the head's: that writer may yet
commit them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import msgspec

from storage.database.format import keys
from storage.database.history import Departed, History, find_needless
from storage.database.limits import Limits
from storage.database.maintenance.lost import find_evidence, list_newer
from storage.errors import DeletionUnsafe
from storage.heads.base import HeadStore, NewSession
from storage.objects.base import ObjectStat, ObjectStore
from storage.types import ChainEntry, DatabaseId, Head

_BATCH = 500


class Swept(msgspec.Struct, frozen=True):
    """What a sweep found and did."""

    seen: int
    deleted: int
    deleted_bytes: int
    chain_revision: int = 0
    """Of the head that the sweep was based on."""
    doubt: str = ""
    """Why the head may have been restored from an older copy; empty if there is no sign of it."""


class Sweeper:
    """Sweeps one database at a time. Commits, readers and other sweeps may run at the same time."""

    def __init__(self, heads: HeadStore, objects: ObjectStore, history: History, limits: Limits) -> None:
        self._heads, self._objects, self._history, self._limits = heads, objects, history, limits

    def sweep(
        self,
        database: DatabaseId,
        now_ms: int,
        *,
        accept_loss: bool = False,
        most_bytes: int | None = None,
    ) -> Swept:
        """Delete what is dead at `now_ms`, the time by the store's clock (see `storage.objects.now`).

        If all objects together take more than `most_bytes`, the history is thinned.

        A database without a record is left alone: see `erase`.

        The order is the guard: objects are listed before the head is read, and history after it.
        An entry leaves the head only after a history object names it, so one of the two shows it.

        Raises: DeletionUnsafe if the objects prove that there was a newer head. If that loss is accepted, the
        objects of newer versions are deleted.
        """
        listed = list(self._objects.list(keys.prefix(database)))
        head = self._heads.find(database)
        if head is None:
            return Swept(len(listed), 0, 0)
        evidence = find_evidence(database, head, listed)
        newer: list[ObjectStat] = []
        if evidence is not None and accept_loss:
            newer = list_newer(database, head, listed)
            head = self._outlive(database, head, newer)
            self._delete(newer)
            evidence = None
        elif evidence is not None and evidence.is_proof:
            raise DeletionUnsafe(f"{database}: {evidence.text}; nothing of it is deleted")
        departed = list(self._history.list_departed(database))
        expired = {found.key for found in departed if self._history.is_expired(found, now_ms)}
        if most_bytes is not None and sum(stat.size_bytes for stat in listed) > most_bytes:
            rest = [found for found in departed if found.key not in expired]
            expired |= find_needless(rest, head, now_ms, self._limits)
        named = _named(database, head, [found for found in departed if found.key not in expired])
        # Young objects may be of a commit in progress, whose head update is still to come.
        old_ms = now_ms - self._limits.sweep_grace_ms
        dead = [stat for stat in listed if stat.modified_ms <= old_ms and stat.key not in named]
        orphans = [stat for stat in dead if _is_orphan(database, head, stat)]
        # History objects are deleted last: if the sweep is interrupted, the next one finds the rest by them.
        records = [stat for stat in dead if stat.key in expired]
        told_ms = now_ms - self._limits.history_ms
        told = keys.failure_prefix(database)
        failures = [stat for stat in listed if stat.key.startswith(told) and stat.modified_ms <= told_ms]
        self._delete(orphans)
        self._delete(records)
        self._delete(failures)
        gone = {stat.key for stat in newer}
        deleted = newer + [stat for stat in orphans + records + failures if stat.key not in gone]
        doubt = evidence.text if evidence is not None and evidence.is_likely else ""
        return Swept(
            len(listed),
            len(deleted),
            sum(stat.size_bytes for stat in deleted),
            head.chain_revision,
            doubt,
        )

    def _outlive(self, database: DatabaseId, head: Head, newer: list[ObjectStat]) -> Head:
        """Raise the head's token above those of newer objects, so that no writer can still commit them."""
        last = max(token for stat in newer if (token := keys.find_token(database, stat.key)) is not None)
        # Each new session raises the token by one.
        while head.token <= last:
            head = self._heads.open_session(database, NewSession("accepted", 0, 0))
        if head.session is not None:
            self._heads.close_session(database, head.token, head.session.id)
        return head

    def erase(self, database: DatabaseId) -> None:
        """Delete a database for good: its record, then all its objects."""
        self._heads.delete(database)
        self._delete(self._objects.list(keys.prefix(database)))

    def _delete(self, stats: Iterable[ObjectStat]) -> None:
        names = (stat.key for stat in stats)
        while batch := list(itertools.islice(names, _BATCH)):
            self._objects.delete(batch)


def _named(database: DatabaseId, head: Head, departed: list[Departed]) -> set[str]:
    chains: list[tuple[ChainEntry, ...]] = [head.chain, *(found.departure.chain for found in departed)]
    named = {keys.entry_key(database, entry) for chain in chains for entry in chain}
    if head.session is not None:
        # Journal objects of the running session.
        named.update(entry.key for entry in head.session.journal if entry.key is not None)
    return named


def _is_orphan(database: DatabaseId, head: Head, stat: ObjectStat) -> bool:
    """Whether no writer can still commit the object: a head update must have the head's token."""
    token = keys.find_token(database, stat.key)
    is_history = stat.key.startswith(keys.history_prefix(database))
    return token is not None and not is_history and token < head.token
