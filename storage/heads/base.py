"""The port of the head store: one record per database, changed by single conditional writes.

Used by `storage.database`; implemented by `local`, `dynamodb`, `s3` and `memory`. Every method is atomic and
linearisable, and costs one round trip to one record. If a write's answer is lost, the backend reads the
record to find out whether the write was applied; if that fails too, it raises `Unavailable`, and the
caller looks for its commit id. No condition compares clocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from storage.types import ChainEntry, DatabaseId, Head, JournalEntry, Prepared, UserId

RECENT_KEPT = 8
"""How many answers of past commits a head keeps."""


class NewSession(msgspec.Struct, frozen=True):
    """The session that `open_session` writes; token and base version come from the record."""

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


class HeadUpdate(msgspec.Struct, frozen=True):
    """A head update: what the head becomes with a commit, and the condition for it.

    Condition: `head.version == base_version and head.token == token`, and with a `session_id` also
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
    """The head gets its page size, page count and checksum from here. A snapshot replaces the chain; a
    delta is appended. `entry.last == base_version + 1`."""


class HeadStore(Protocol):
    """All methods raise `Unavailable` if the store is not available."""

    def find(self, database: DatabaseId) -> Head | None:
        """The record, by a strongly consistent read; None for a database that was never written."""

    def find_many(self, databases: Sequence[DatabaseId]) -> list[Head | None]:
        """As `find`, for a few databases in one round trip; not a consistent snapshot of all of them."""

    def open_session(self, database: DatabaseId, session: NewSession) -> Head:
        """Start a session: token + 1, an older session is replaced, `seq` = number of journal entries.

        Creates the record if there is none. Returns the head as written. Need not survive a power cut.

        Condition: the record has no session with the same id that has a higher `seq`, so that a start that a
        proxy delivers twice does not empty the journal of the running sync. Raises: SessionLost.
        """

    def append(self, database: DatabaseId, session_id: str, entry: JournalEntry) -> Head:
        """Add an entry to the journal of a running session, and return the head as written.

        Condition: `session.id == session_id`. The caller need not have read the record: the journal has the
        order in which appends arrive. If an answer is lost, the entry may be added twice.
        Raises: SessionLost. Need not survive a power cut.
        """

    def update_session(
        self, database: DatabaseId, token: int, session_id: str, seq: int, update: SessionUpdate
    ) -> Head:
        """Replace parts of the running session, seq + 1, and return the head as written.

        Condition: `head.token == token and session.id == session_id and session.seq == seq`.
        Raises: SessionAhead if only `seq` differs, else SessionLost. Need not survive a power cut.
        """

    def close_session(self, database: DatabaseId, token: int, session_id: str) -> bool:
        """End the session if token and id are these; returns whether they were."""

    def advance_head(self, database: DatabaseId, update: HeadUpdate) -> Head:
        """Make a new version the head; durable on return, also against a power cut.

        On success: version + 1, chain_revision + 1, stamps and page figures set, a `Recent` added (the last
        RECENT_KEPT are kept), session removed. With a session the token stays, without one it becomes
        token + 1. A missing record counts as EMPTY_HEAD. Idempotent: if this head update was applied before,
        the head is returned. Raises: SessionLost, HeadMoved, SessionAhead; NotDurable if the new version is
        visible, but may be lost by a power cut.
        """

    def replace_chain(
        self, database: DatabaseId, token: int, chain_revision: int, chain: tuple[ChainEntry, ...]
    ) -> Head:
        """Replace the chain by another one to the same version (compaction); durable on return.

        Version, token and session stay. Condition: token and chain_revision are these. Raises: HeadMoved.
        """

    def replace_head(self, database: DatabaseId, found: Head | None, head: Head) -> None:
        """Put a record that was made anew in the place of one that is lost or too old; durable.

        Guard: the record has the version, token and chain revision of `found`, or is absent where that is
        None. `head` has no session. Repeating a write that landed does nothing. Raises: HeadMoved.
        """

    def list(self, user: UserId | None = None) -> Iterator[DatabaseId]:
        """The databases that have a record, of one user or of all; ordered, lazy."""

    def list_changed(self, since_ms: int) -> Iterator[DatabaseId]:
        """The databases with a commit since `settle` was last called for them; ordered, lazy.

        A store that does not keep track of `settle` gives those with a commit at `since_ms` or later, by
        `HeadUpdate.time_ms` or by its own clock. May give others, too. Never reads single records over a
        network.
        """

    def settle(self, database: DatabaseId, chain_revision: int) -> None:
        """Note that maintenance is done with the record, if its chain revision is still this one."""

    def delete(self, database: DatabaseId) -> None:
        """Delete the record of a database; its objects are not touched."""
