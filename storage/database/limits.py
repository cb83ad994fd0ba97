"""Limits of versioned databases: sizes, counts and times. `app.main` sets those that depend on settings."""

from __future__ import annotations

import msgspec

_MIB = 1 << 20
_HOUR_MS = 3_600_000


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults suit a worker with 2 GiB of memory and a 20 GiB disk."""

    open_copies: int = 64
    """Shared working copies that a process keeps open between requests."""
    copy_bytes: int = 1 << 30
    """Disk space for all shared copies of a host: their logs, and bases that are in no cache any more."""
    page_cache_bytes: int = 8 * _MIB
    """SQLite's page cache per working copy. A push of a thousand reviews changes some 1,400 pages; if they do
    not fit, SQLite writes some of them to the log early, which makes the merge a third slower."""
    idle_page_cache_bytes: int = 1 * _MIB
    """A copy with a larger page cache than this frees it with its commit."""
    page_caches_bytes: int = 256 * _MIB
    """Page cache of all copies of a process: over it SQLite reuses pages before it allocates more."""
    base_bytes: int = 8 << 30
    """Disk space for base files, of all processes that share the folder."""
    verify_every: int = 64
    """Every so many times that a base is opened, all its pages are hashed."""
    rebase_bytes: int = 16 * _MIB
    """A copy whose log is longer than this, and than a `rebase_share`-th of its base, gets a new base."""
    rebase_share: int = 4
    journal_inline_bytes: int = 8 << 10
    """A larger journal body is stored as an object of its own."""
    journal_fold_bytes: int = 32 << 10
    """Journal bodies in a head record, in total; if there are more, all are moved to one object."""
    journal_fold_entries: int = 64
    """Journal entries in a head record; if there are more, all are moved to one object."""
    journal_entries: int = 20_000
    """Writes of one session, at most. A push of 100,000 rows has some 400."""
    journal_bytes: int = 512 * _MIB
    """Messages of one session before compression, at most."""
    cumulative_pages: int = 0
    """A delta may repeat pages of earlier versions, up to so many pages, so that another host that is a few
    versions behind fetches one object. 0 if all workers run on one host."""
    merge_deltas: int = 16
    """Number of single commits' deltas at the end of a chain from which on compaction merges them."""
    chain_deltas: int = 24
    """The most deltas of a chain: the commit that would exceed it writes a snapshot."""
    snapshot_percent: int = 50
    """If the deltas are larger than this share of the snapshot, compaction makes a new snapshot."""
    history_ms: int = 30 * 24 * _HOUR_MS
    """How long an earlier version can be restored."""
    every_version_ms: int = 24 * _HOUR_MS
    """A thinned history has every version for so long,"""
    hourly_ms: int = 7 * 24 * _HOUR_MS
    """then the last one of each hour for so long, and then the last one of each day."""
    sweep_grace_ms: int = 24 * _HOUR_MS
    """How old an object must be before a sweep may delete it."""
    compression_level: int = 3
    """zstd level of objects that compaction writes."""
    quick_compression_level: int = 1
    """zstd level of commits, for which a client waits: half the time, and 5 % more bytes."""
    delta_memory_bytes: int = 8 * _MIB
    """A delta with more uncompressed bytes than this is made in a file."""
    fetch_bytes: int = 8 * _MIB
    """Compressed bytes of deltas that are fetched at once."""
