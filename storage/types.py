"""Values that all packages of the storage share: ids, the head record, its chain and its session.

What may be done with a head is in `storage.heads.transitions`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import NewType, TypeVar

import msgspec

UserId = NewType("UserId", str)
"""The identity provider's stable id of a user; [A-Za-z0-9._-], 1 to 128 characters."""

T = TypeVar("T")
Offload = Callable[[Callable[[], T]], T]
"""Runs a blocking function off the event loop and returns its result."""


def run_here(function: Callable[[], T]) -> T:
    """The offload of a process without an event loop: the command line and the tests."""
    return function()


class DatabaseKind(StrEnum):
    """The two databases of a user."""

    COLLECTION = "collection"
    MEDIA = "media"


class DatabaseId(msgspec.Struct, frozen=True, order=True):
    """One versioned SQLite file of one user."""

    user: UserId
    kind: DatabaseKind

    def __str__(self) -> str:
        return f"{self.user}/{self.kind}"


class EntryKind(StrEnum):
    """What an object of a chain holds."""

    SNAPSHOT = "s"
    DELTA = "d"


class ChainEntry(msgspec.Struct, frozen=True, array_like=True):
    """One object of a chain. Its key follows from these fields (`storage.database.keys`).

    A snapshot has `first == last`. A delta takes any state from version `first - 1` up to
    `last - 1` to version `last`: pages are whole, so it may be laid over a base in between.
    """

    kind: EntryKind
    first: int
    last: int
    token: int
    nonce: str
    size_bytes: int
    sha256: bytes
    page_size: int
    page_count: int
    checksum: int
    """Of the whole database after this entry: XOR of a 64-bit hash per page."""
    commit_ids: tuple[str, ...]
    time_ms: int
    """Time of the commit that made version `last`."""
    counts: tuple[int, ...] = ()
    """Of version `last`: notes, cards and reviews of a collection, files and their bytes of media; empty if
    it was made by a version of the server that did not keep them."""


class Recent(msgspec.Struct, frozen=True, array_like=True):
    """The answer of a commit, kept so that a lost reply can be told from a failure."""

    commit_id: str
    answer: bytes
    time_ms: int


class JournalEntry(msgspec.Struct, frozen=True, array_like=True):
    """One request of the running sync that brings rows, kept until the sync is merged."""

    method: str
    digest: bytes
    """First 16 bytes of the SHA-256 of method and decoded request body."""
    now_ms: int
    """The clock when the request came; the merge uses it for rows that it stamps itself."""
    body: bytes | None
    """zstd frame of the request's JSON; None if `key` names the object that holds it."""
    key: str | None
    reserved: bytes = b""
    """Always empty. Version 0.1 kept a digest here and does not read records without the field."""
    size_bytes: int = 0
    """Length of the request's JSON before compression."""


class Prepared(msgspec.Struct, frozen=True, array_like=True):
    """A merged sync whose object is stored; `finish` makes it the next version."""

    entry: ChainEntry
    commit_id: str
    answer: bytes
    """Of `finish`."""
    time_ms: int
    stamps: dict[str, int | bool]
    checked: bytes
    """Digest of the sanity check that the merge answered, so that a repeat gets the same answer."""


class Session(msgspec.Struct, frozen=True, array_like=True):
    """The running sync of a database. The last one to start owns it."""

    id: str
    token: int
    base_version: int
    seq: int
    """+1 with every write to the session: an appended entry, an update."""
    merge_revision: int
    """Revision of the merge code; another revision must not carry the session on."""
    started_ms: int
    journal: tuple[JournalEntry, ...]
    state: bytes = b""
    """What the steps of the sync keep, encoded by the caller (`app.sync.session`)."""
    prepared: Prepared | None = None
    """Set by the merge, cleared by every other write to the session."""


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The mutable pointer to the current version of one database."""

    version: int
    """0 before the first commit, then +1 a commit."""
    token: int
    """The fencing token: grows with every session and every commit without one; never goes down."""
    chain_revision: int
    """+1 whenever `chain` changes, by commits and by compaction."""
    page_size: int
    page_count: int
    checksum: int
    stamps: dict[str, int | bool]
    """What meta and media begin answer from: see `storage.collection.stamps`, `storage.media.index`."""
    chain: tuple[ChainEntry, ...]
    """A snapshot, then deltas, contiguous up to `version`; empty at version 0."""
    recent: tuple[Recent, ...]
    session: Session | None


EMPTY_HEAD = Head(0, 0, 0, 0, 0, 0, {}, (), (), None)
"""What stands for a database that has no record yet."""
