"""Makes the head record of a database anew from its objects, when the record is lost or older than they are.

Names and headers of the objects tell which versions there were; the chain that was found is proven by the
caller, who builds the database from it (`DatabaseStore.rebuild`) and reads the stamps. `storage/README.md`
("Made anew") says what can be told from objects, and what cannot.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from storage.database.format import keys
from storage.database.format.pages import HEADER_BYTES, TRAILER_BYTES, read_facts
from storage.database.history import History
from storage.errors import Corrupt, NotFound
from storage.heads.base import RECENT_KEPT
from storage.objects.base import ObjectStat, ObjectStore
from storage.types import ChainEntry, DatabaseId, EntryKind, Head, Recent

TOKENS_BETWEEN: Final = 1 << 32
"""How far above every known token that of a new record is: a session that stored nothing has left no trace of
its token, and there cannot have been so many."""

_BATCH: Final = 50


class Found(msgspec.Struct, frozen=True):
    """A snapshot or a delta that is stored."""

    key: str
    entry: ChainEntry
    parent: int
    """Checksum of the version that a delta is laid over; 0 if that is not known, or for a snapshot."""
    modified_ms: int
    was_in_chain: bool
    """A history object names it, so it was part of the head's chain."""


class Inventory(msgspec.Struct, frozen=True):
    """What the objects of one database tell."""

    database: DatabaseId
    found: tuple[Found, ...]
    newest_version: int
    """That any object is of, whether it can be read or not."""
    token: int
    """The highest in a name."""
    chain_revision: int
    """At most this one was reached."""
    faults: tuple[str, ...]


class Plan(msgspec.Struct, frozen=True):
    """A chain that leads to the newest version that can be had."""

    chain: tuple[ChainEntry, ...]
    doubts: tuple[str, ...]
    checksums: dict[int, int]
    """Of all versions that objects tell of, by version."""

    @property
    def version(self) -> int:
        """The version that the chain leads to."""
        return self.chain[-1].last


def take_inventory(
    objects: ObjectStore, history: History, database: DatabaseId, stats: Iterable[ObjectStat]
) -> Inventory:
    """Read the history of a database, and beginning and end of each object that the history does not name."""
    listed = list(stats)
    departed, faults = [], []
    try:
        departed = list(history.list_departed(database))
    except Corrupt as exc:
        faults.append(str(exc))
    named = {keys.entry_key(database, entry): entry for one in departed for entry in one.departure.chain}
    found = []
    token = newest = revision = 0
    for stat in listed:
        name = keys.parse(database, stat.key)
        if name is None:
            continue
        token, newest = max(token, name.token), max(newest, name.version or 0)
        entry = keys.parse_entry(database, stat.key)
        if entry is None:
            continue
        if stat.key in named:
            found.append(Found(stat.key, named[stat.key], 0, stat.modified_ms, was_in_chain=True))
            continue
        try:
            facts, parent = _read(objects, stat, entry)
        except (Corrupt, NotFound) as exc:
            faults.append(str(exc))
        else:
            found.append(Found(stat.key, facts, parent, stat.modified_ms, was_in_chain=False))
    for one in departed:
        newest = max(newest, one.departure.version)
        name = keys.parse(database, one.key)
        if name is not None and name.chain_revision is not None:
            revision = max(revision, name.chain_revision + 1 - one.departure.version)
    return Inventory(database, tuple(found), newest, token, max(0, revision) + newest, tuple(faults))


def _read(objects: ObjectStore, stat: ObjectStat, entry: ChainEntry) -> tuple[ChainEntry, int]:
    entry = replace(entry, size_bytes=stat.size_bytes)
    if stat.size_bytes <= HEADER_BYTES + TRAILER_BYTES:
        content = objects.read(stat.key)
        return read_facts(stat.key, content, content[-TRAILER_BYTES:], entry)
    start = objects.read(stat.key, 0, HEADER_BYTES)
    end = objects.read(stat.key, stat.size_bytes - TRAILER_BYTES, TRAILER_BYTES)
    return read_facts(stat.key, start, end, entry)


def find_plan(inventory: Inventory, unusable: frozenset[str] = frozenset()) -> Plan | None:
    """The chain to the newest version that objects lead to, without those with `unusable` keys; None if none.

    It is the chain that the head had, unless a compaction was broken off or objects are missing.
    """
    checksums, doubts = _choose_line(inventory.found)
    line = [one for one in inventory.found if _is_on(one, checksums) and one.key not in unusable]
    # In the order in which they became part of a chain: compaction comes after the commits that it folds.
    line.sort(key=_place)
    chain: list[ChainEntry] = []
    for one in line:
        chain = _extended(chain, one.entry)
    if not chain:
        return None
    told = tuple(text for version, text in doubts if version == chain[-1].last)
    return Plan(tuple(chain), told, checksums)


def _place(one: Found) -> tuple[int, int, bool, int]:
    entry = one.entry
    return entry.last, one.modified_ms, entry.kind is EntryKind.SNAPSHOT, -entry.first


def _choose_line(found: Sequence[Found]) -> tuple[dict[int, int], list[tuple[int, str]]]:
    """The checksum of each version that was committed, as far as objects tell; and which are uncertain.

    A commit that was broken off leaves an object that no later one builds on. What is laid over a version,
    or was in a chain, tells which object was the right one; if nothing does, the highest token: once it was
    handed out, no older one could commit.
    """
    checksums: dict[int, int] = {}
    doubts = []
    newest_first = sorted(found, key=lambda one: one.entry.last, reverse=True)
    for version, group in itertools.groupby(newest_first, key=lambda one: one.entry.last):
        candidates = list(group)
        if version not in checksums:
            known = [one for one in candidates if one.was_in_chain]
            last_token = max(one.entry.token for one in known or candidates)
            likely = [one for one in known or candidates if one.entry.token == last_token]
            best = max(likely, key=lambda one: (one.modified_ms, one.key))
            checksums[version] = best.entry.checksum
            if len({one.entry.checksum for one in likely}) > 1:
                what = f"which of {len(likely)} commits won is not known; {best.key} was taken"
                doubts.append((version, f"version {version}: {what}"))
        for one in candidates:
            if one.parent and one.entry.checksum == checksums[version]:
                checksums.setdefault(one.entry.first - 1, one.parent)
    return checksums, doubts


def _is_on(one: Found, checksums: dict[int, int]) -> bool:
    entry = one.entry
    if checksums.get(entry.last) != entry.checksum:
        return False
    return not one.parent or checksums.get(entry.first - 1, one.parent) == one.parent


def _extended(chain: list[ChainEntry], entry: ChainEntry) -> list[ChainEntry]:
    """The chain with one entry more; as it was if the entry cannot be laid over it."""
    if entry.kind is EntryKind.SNAPSHOT:
        return [entry]
    if chain and chain[-1].last == entry.last:
        kept = [earlier for earlier in chain if earlier.last < entry.first]
    else:
        kept = chain
    if kept and entry.first <= kept[-1].last + 1 <= entry.last:
        return [*kept, entry]
    return chain


def list_plans(inventory: Inventory) -> Iterator[tuple[Plan, list[str]]]:
    """Plans, the best first, each with an empty list, to which the caller adds the keys that are unusable."""
    unusable: set[str] = set()
    while (plan := find_plan(inventory, frozenset(unusable))) is not None:
        bad: list[str] = []
        yield plan, bad
        unusable.update(bad or {keys.entry_key(inventory.database, plan.chain[-1])})


def make_head(
    plan: Plan,
    inventory: Inventory,
    before: Head | None,
    stamps: dict[str, int | bool],
    answer: bytes,
) -> Head:
    """The record to a plan. Its token is higher than any that was handed out.

    `answer` is what the client of the last commit was told; answers of earlier ones are not known.
    """
    end = plan.chain[-1]
    told = min(plan.version, RECENT_KEPT)
    recent = [Recent("", b"", end.time_ms)] * (told - 1)
    recent.append(Recent(end.commit_ids[-1] if end.commit_ids else "", answer, end.time_ms))
    return Head(
        version=plan.version,
        token=max(inventory.token, before.token if before is not None else 0) + TOKENS_BETWEEN,
        chain_revision=max(inventory.chain_revision, before.chain_revision + 1 if before is not None else 0),
        page_size=end.page_size,
        page_count=end.page_count,
        checksum=end.checksum,
        stamps=stamps,
        chain=plan.chain,
        recent=tuple(recent),
        session=None,
    )
