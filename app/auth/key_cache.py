"""A cache of host keys in a worker, so that a sync of seven requests reads its key once.

Used by the stores of host keys on AWS.
"""

from __future__ import annotations

from app.auth.hostkeys import KeyRecord


class KeyCache:
    """Records that were read in the last `remember_ms`, at most `most` of them."""

    def __init__(self, remember_ms: int, most: int = 10_000) -> None:
        self._remember_ms, self._most = remember_ms, most
        self._kept: dict[bytes, tuple[int, KeyRecord]] = {}

    def find(self, key_hash: bytes, now_ms: int) -> KeyRecord | None:
        """The record, or None if it is not cached or too old."""
        until_ms, record = self._kept.get(key_hash, (0, None))
        return record if now_ms < until_ms else None

    def add(self, record: KeyRecord, now_ms: int) -> None:
        """Cache a record that was read or written now."""
        self.forget(record.hash)
        while len(self._kept) >= self._most:
            del self._kept[next(iter(self._kept))]
        self._kept[record.hash] = (now_ms + self._remember_ms, record)

    def forget(self, key_hash: bytes) -> None:
        """Remove a record, so that it is read the next time."""
        self._kept.pop(key_hash, None)
