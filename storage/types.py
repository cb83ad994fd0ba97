"""Values that all packages share: ids of users and databases, the head record, its chain and its session.

How a head may change is in `storage.heads.transitions`; how it is stored in `storage/README.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import NewType, TypeVar

import msgspec

UserId = NewType("UserId", str)
"""The stable id of a user from the user directory; 1 to 128 characters of [A-Za-z0-9._-]."""

T = TypeVar("T")
Offload = Callable[[Callable[[], T]], T]
"""Runs a blocking function off the event loop and returns its result."""


def run_inline(function: Callable[[], T]) -> T:
    """The `Offload` of a process without an event loop, such as the command line: calls the function."""
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
    """The kind of an object of a chain."""

    SNAPSHOT = "s"
    DELTA = "d"


class ChainEntry(msgspec.Struct, frozen=True, array_like=True):
    """One object of a chain. Its key follows from these fields (`storage.database.format.keys`).

    A snapshot has `first == last`. A delta has whole pages, so applying it to any version from `first - 1` to
    `last - 1` gives version `last`.
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
    """Of the whole database at version `last`: XOR of a 64-bit hash of each page."""
    commit_ids: tuple[str, ...]
    time_ms: int
    """Time of the commit that made version `last`."""
    counts: tuple[int, ...] = ()
    """Of version `last`: notes, cards and reviews of a collection, files and their bytes of media; empty if
    it was made by a version of the server that did not keep them."""


class Recent(msgspec.Struct, frozen=True, array_like=True):
    """A commit with its answer, kept so that a client whose answer was lost gets it again."""

    commit_id: str
    answer: bytes
    time_ms: int


class JournalEntry(msgspec.Struct, frozen=True, array_like=True):
    """One message of the running sync with rows from the client, kept until the sync is merged."""

    method: str
    digest: bytes
    """First 16 bytes of the SHA-256 of method and decoded request body."""
    now_ms: int
    """The time when the request arrived; the merge uses it as the modification time of rows it changes."""
    body: bytes | None
    """zstd frame of the request's JSON; None if it is in the object `key`."""
    key: str | None
    reserved: bytes = b""
    """Always empty. Version 0.1 had a digest here, and cannot read records without the field."""
    size_bytes: int = 0
    """Length of the request's JSON before compression."""


class Prepared(msgspec.Struct, frozen=True, array_like=True):
    """A prepared commit: a merged sync whose object is stored; `finish` makes it the next version."""

    entry: ChainEntry
    commit_id: str
    answer: bytes
    """The answer to `finish`."""
    time_ms: int
    stamps: dict[str, int | bool]
    checked: bytes
    """Digest of the sanity check's request, so that a repeated request gets the same answer."""


class Session(msgspec.Struct, frozen=True, array_like=True):
    """The running sync of a database; the one that started last."""

    id: str
    token: int
    base_version: int
    seq: int
    """Number of writes to the session: appended entries and updates."""
    merge_revision: int
    """Revision of the merge code; a worker with another revision must not continue the session."""
    started_ms: int
    journal: tuple[JournalEntry, ...]
    state: bytes = b""
    """State of the steps of the sync, encoded by `app.sync.session`."""
    prepared: Prepared | None = None
    """Set after the merge; removed by every other write to the session."""


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The mutable pointer to the current version of one database."""

    version: int
    """0 before the first commit, then +1 with each commit."""
    token: int
    """The fencing token: +1 with every session and every commit without one; it never decreases."""
    chain_revision: int
    """+1 whenever `chain` changes, by a commit or by compaction."""
    page_size: int
    page_count: int
    checksum: int
    stamps: dict[str, int | bool]
    """A summary of the version, for `meta` and media `begin`: see `storage.collection.stamps` and
    `storage.media.index`."""
    chain: tuple[ChainEntry, ...]
    """A snapshot, then deltas, contiguous up to `version`; empty at version 0."""
    recent: tuple[Recent, ...]
    session: Session | None


EMPTY_HEAD = Head(0, 0, 0, 0, 0, 0, {}, (), (), None)
"""Used for a database that has no record yet."""
