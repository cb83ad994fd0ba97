"""Sizes, counts and times that bound a versioned database; the composition root may replace them."""

from __future__ import annotations

import msgspec

_MIB = 1 << 20
_HOUR_MS = 3_600_000


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults suit a worker with 2 GiB of memory and a 20 GiB disk."""

    open_copies: int = 64
    """Shared working copies that a process keeps open between requests."""
    copy_bytes: int = 1 << 30
    """Disk that the logs of all shared copies of a host may take, and bases that only they still use."""
    page_cache_bytes: int = 8 * _MIB
    """SQLite's page cache per working copy: a push of a thousand reviews changes some 1,400 pages. What is
    more goes to the log early, and costs SQLite a third more than the merge."""
    idle_page_cache_bytes: int = 1 * _MIB
    """A copy that has more of it gives it back with its commit."""
    page_caches_bytes: int = 256 * _MIB
    """What all copies of a process may have: beyond it SQLite uses the pages it has before it takes more."""
    base_bytes: int = 8 << 30
    """Disk that base files may take, over all processes sharing the folder."""
    verify_every: int = 64
    """A base's bytes are hashed in full once in so many openings."""
    rebase_bytes: int = 16 * _MIB
    """A log longer than this and than a `rebase_share`-th of its base is folded into a new base."""
    rebase_share: int = 4
    journal_inline_bytes: int = 8 << 10
    """A journal body that is larger goes to an object of its own."""
    journal_fold_bytes: int = 32 << 10
    """Bodies that a head record holds together; more are moved to one object."""
    journal_fold_entries: int = 64
    """Entries that a head record holds; more are moved to one object."""
    journal_entries: int = 20_000
    """Writes of one session. A push of 100,000 rows has some 400."""
    journal_bytes: int = 512 * _MIB
    """Messages of one session, before compression."""
    cumulative_pages: int = 0
    """A delta may repeat the pages of the versions before it up to so many pages, so that another host that
    is a few versions behind fetches one object. 0 where all workers share their copies."""
    merge_deltas: int = 16
    """So many deltas of single commits at the end of a chain are merged into one."""
    chain_deltas: int = 24
    """The most deltas of a chain: the commit that would exceed it writes a snapshot."""
    snapshot_percent: int = 50
    """Deltas larger than this share of the snapshot are folded into a new one."""
    history_ms: int = 30 * 24 * _HOUR_MS
    """How long what left a chain can be brought back."""
    every_version_ms: int = 24 * _HOUR_MS
    """A thinned history has every version for so long,"""
    hourly_ms: int = 7 * 24 * _HOUR_MS
    """then the last one of each hour for so long, and then the last one of each day."""
    sweep_grace_ms: int = 24 * _HOUR_MS
    """How old an object must be before it may be swept."""
    compression_level: int = 3
    """Of what compaction writes."""
    quick_compression_level: int = 1
    """Of what a commit writes, while a client waits: half the time for a twentieth more bytes."""
    delta_memory_bytes: int = 8 * _MIB
    """A delta of more raw bytes than this is made in a file."""
    fetch_bytes: int = 8 * _MIB
    """Stored bytes of deltas that are fetched at once."""
