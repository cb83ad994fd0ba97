"""The port of the head store: one record per database, changed by single conditional updates.

Every method is atomic, linearisable and one round trip to one record. A write whose outcome the
backend could not learn is resolved by the backend itself where the record shows it, else it raises
`Unavailable`; callers then look for their commit id. No condition compares clocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from storage.types import ChainEntry, DatabaseId, Head, JournalEntry, Prepared, UserId

RECENT_KEPT = 8
"""How many answers of past commits a head keeps."""


class NewSession(msgspec.Struct, frozen=True):
    """What `open_session` writes; token and base version come from the record."""

    id: str
    merge_revision: int
    started_ms: int
    journal: tuple[JournalEntry, ...] = ()
    state: bytes = b""


class SessionUpdate(msgspec.Struct, frozen=True):
    """What `update_session` replaces. None keeps a field, but `prepared` is always replaced."""

    state: bytes | None = None
    journal: tuple[JournalEntry, ...] | None = None
    prepared: Prepared | None = None


class Flip(msgspec.Struct, frozen=True):
    """A commit: what the head becomes, and what it must be for that.

    Guard: `head.version == base_version and head.token == token`, and with a `session_id` also
    `session.id == session_id and session.seq == seq`. Without one any running session is ended.
    """

    token: int
    base_version: int
    session_id: str | None
    seq: int
    commit_id: str
    answer: bytes
    time_ms: int
    stamps: dict[str, int | bool]
    entry: ChainEntry
    """Page size, count and checksum of the head are taken from here. A snapshot replaces the
    chain; a delta is appended. `entry.last == base_version + 1`."""


class HeadStore(Protocol):
    """All methods raise `Unavailable` when the store is away."""

    def find(self, database: DatabaseId) -> Head | None:
        """The record, strongly consistent; None for a database never written."""

    def find_many(self, databases: Sequence[DatabaseId]) -> list[Head | None]:
        """As `find`, of a few databases in one round trip; not one moment for all of them."""

    def open_session(self, database: DatabaseId, session: NewSession) -> Head:
        """Take the database over: token + 1, any older session is replaced, `seq` counts the journal.

        Creates the record if there is none. Returns the head as written. Need not survive a power cut.

        Guard: no session of the same id has come further than its start. A second delivery of a start, by a
        proxy that tries again, must not empty the journal of the sync that goes on. Raises: SessionLost.
        """

    def append(self, database: DatabaseId, session_id: str, entry: JournalEntry) -> Head:
        """Add an entry to the journal of a running session, and return the head as written.

        Guard: `session.id == session_id`. The caller need not have seen the record: the order in which
        appends arrive is the order of the journal. The entry may be added twice if an answer is lost.
        Raises SessionLost. Need not survive a power cut.
        """

    def update_session(
        self, database: DatabaseId, token: int, session_id: str, seq: int, update: SessionUpdate
    ) -> Head:
        """Replace parts of the running session, seq + 1, and return the head as written.

        Guard: `head.token == token and session.id == session_id and session.seq == seq`.
        Raises SessionAhead if only `seq` differs, else SessionLost. Need not survive a power cut.
        """

    def close_session(self, database: DatabaseId, token: int, session_id: str) -> bool:
        """End the session if it is this one (`token` and id equal); False if it was not."""

    def flip(self, database: DatabaseId, flip: Flip) -> Head:
        """Make a new version the head; durable on return, also against a power cut.

        On success: version + 1, chain_revision + 1, stamps and page figures set, `Recent` kept (the
        last RECENT_KEPT), session removed. With a session the token stays; without one it becomes
        token + 1. A record that does not exist counts as EMPTY_HEAD. Repeating a flip that landed
        returns the head (its commit id is in `recent`). Raises: SessionLost, HeadMoved, and NotDurable
        if the new version is visible but may be lost by a power cut.
        """

    def replace_chain(
        self, database: DatabaseId, token: int, chain_revision: int, chain: tuple[ChainEntry, ...]
    ) -> Head:
        """Compaction: another chain to the same version; keeps version, token, session; durable.

        Guard: token and chain_revision equal. Raises: HeadMoved.
        """

    def replace_head(self, database: DatabaseId, found: Head | None, head: Head) -> None:
        """Put a record that was made anew in the place of one that is lost or too old; durable.

        Guard: the record has the version, token and chain revision of `found`, or is absent where that is
        None. `head` has no session. Repeating a write that landed does nothing. Raises: HeadMoved.
        """

    def list(self, user: UserId | None = None) -> Iterator[DatabaseId]:
        """The databases that have a record, ordered; of one user or of all; lazy."""

    def list_changed(self, since_ms: int) -> Iterator[DatabaseId]:
        """The databases that `settle` has not been called for since their last commit, ordered.

        A store that keeps no such note gives those with a commit at `since_ms` or later, by `Flip.time_ms` or
        by its own clock. Others may be among them. Never reads the records one by one over a network.
        """

    def settle(self, database: DatabaseId, chain_revision: int) -> None:
        """Note that maintenance has seen the record at this chain revision, if it is still at it."""

    def delete(self, database: DatabaseId) -> None:
        """Forget a database (its user was removed). Its objects are the sweep's business."""
