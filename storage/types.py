"""Values that every room of the storage shares: ids, the head record, its chain and its session.

Refuses behaviour: what may be done with a head is said by `storage.heads`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import NewType, TypeVar

import msgspec

UserId = NewType("UserId", str)
"""The identity provider's stable id of a user; [A-Za-z0-9._-], 1 to 128 characters."""

Usn = NewType("Usn", int)
Version = NewType("Version", int)
"""Number of a committed state of one database: 0 before the first commit, then +1 a commit."""

FencingToken = NewType("FencingToken", int)
"""Grows with every session and every commit without one; survives both; never goes down."""

CommitId = NewType("CommitId", str)
SessionId = NewType("SessionId", str)
"""Digest of the key that the client chose for one sync; the commit id of its flip."""

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


class Recent(msgspec.Struct, frozen=True, array_like=True):
    """The answer of a commit, kept so that a lost reply can be told from a failure."""

    commit_id: str
    answer: bytes
    time_ms: int


class JournalEntry(msgspec.Struct, frozen=True, array_like=True):
    """One state-changing request of the running session, enough to replay it exactly."""

    method: str
    digest: bytes
    """First 16 bytes of the SHA-256 of method and decoded request body."""
    now_ms: int
    """The clock that the request saw; a replay sees the same."""
    body: bytes | None
    """zstd frame of the request's JSON; None where `key` names the object that holds it."""
    key: str | None
    answer_digest: bytes
    """As `digest`, of the JSON answered; empty for the first entry, written before its answer."""


class Session(msgspec.Struct, frozen=True, array_like=True):
    """The running sync of a database. The last one to start owns it."""

    id: str
    token: int
    base_version: int
    seq: int
    """Number of entries in `journal`."""
    merge_revision: int
    """Revision of the merge code; another revision must not replay this session."""
    started_ms: int
    journal: tuple[JournalEntry, ...]


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The mutable pointer to the current version of one database."""

    version: int
    token: int
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
