"""Sample parts of a head record, with only what a test cares about said."""

from __future__ import annotations

from storage.heads.base import HeadUpdate, NewSession
from storage.types import (
    ChainEntry,
    DatabaseId,
    DatabaseKind,
    EntryKind,
    JournalEntry,
    Prepared,
    UserId,
)


def collection_of(user: str) -> DatabaseId:
    return DatabaseId(UserId(user), DatabaseKind.COLLECTION)


def media_of(user: str) -> DatabaseId:
    return DatabaseId(UserId(user), DatabaseKind.MEDIA)


def journal_entry(method: str = "applyChunk", *, body: bytes | None = b"body", key: str | None = None):
    return JournalEntry(method, b"d" * 16, 1_700_000_000_000, body, key, size_bytes=len(body or b""))


def new_session(session_id: str = "session", *, revision: int = 1) -> NewSession:
    return NewSession(session_id, revision, 1_700_000_000_123, (journal_entry("start"),), b"state")


def chain_entry(last: int, *, first: int | None = None, token: int = 0, commit_id: str = "c") -> ChainEntry:
    """The delta to version `last`, or the snapshot that is version 1."""
    kind = EntryKind.SNAPSHOT if last == 1 else EntryKind.DELTA
    return ChainEntry(
        kind, last if first is None else first, last, token, "nonce", 1000 + last, b"s" * 32,
        4096, 10 + last, (1 << 63) + last, (commit_id,), 1_700_000_000_000 + last,
    )  # fmt: skip


def prepared_of(version: int, *, commit_id: str = "c") -> Prepared:
    """A merged sync that waits for its `finish`."""
    stamps = {"usn": version, "empty": False}
    return Prepared(chain_entry(version, commit_id=commit_id), commit_id, b"1", 5, stamps, b"k" * 16)


def snapshot(version: int, *, commit_id: str = "c") -> ChainEntry:
    return ChainEntry(
        EntryKind.SNAPSHOT, version, version, 0, "nonce", 5000, b"t" * 32,
        4096, 20 + version, version, (commit_id,), 1_700_000_000_000 + version,
    )  # fmt: skip


def head_update_of(
    base: int,
    token: int,
    *,
    session: str | None = None,
    seq: int = 0,
    commit_id: str | None = None,
    entry: ChainEntry | None = None,
) -> HeadUpdate:
    """The commit of version `base + 1`."""
    commit_id = commit_id or session or f"commit-{base + 1}"
    return HeadUpdate(
        token=token,
        base_version=base,
        session_id=session,
        seq=seq,
        commit_id=commit_id,
        answer=b"answer of " + commit_id.encode(),
        time_ms=1_700_000_000_000 + base,
        stamps={"mod": 1_700_000_000_000 + base, "empty": False},
        entry=entry or chain_entry(base + 1, commit_id=commit_id, token=token),
    )
