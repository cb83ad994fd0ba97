"""The sizes and times at which a versioned database changes its ways.

Refuses to read them from anywhere: the composition root gives them.
"""

from __future__ import annotations

import msgspec

_MIB = 1 << 20
_HOUR_MS = 3_600_000


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults suit a worker with 2 GiB of memory and a 20 GiB disk."""

    idle_copies: int = 64
    """Open working copies that a process keeps between syncs."""
    idle_wal_bytes: int = 512 * _MIB
    """And the disk that their logs may take together."""
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
    journal_inline_bytes: int = 16 << 10
    """Journal bodies that a head record holds; more go to objects."""
    merge_deltas: int = 16
    """So many deltas of single commits at the end of a chain are merged into one."""
    chain_deltas: int = 24
    """The most deltas of a chain: the commit that would exceed it writes a snapshot."""
    snapshot_percent: int = 50
    """Deltas larger than this share of the snapshot are folded into a new one."""
    history_ms: int = 30 * 24 * _HOUR_MS
    """How long what left a chain can be brought back."""
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
