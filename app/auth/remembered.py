"""What a worker remembers of host keys, so that a sync of seven requests reads its key once."""

from __future__ import annotations

from app.auth.hostkeys import KeyRecord


class RememberedKeys:
    """Keys that a process has found a short while ago, the latest `most` of them."""

    def __init__(self, remember_ms: int, most: int = 10_000) -> None:
        self._remember_ms, self._most = remember_ms, most
        self._kept: dict[bytes, tuple[int, KeyRecord]] = {}

    def find(self, key_hash: bytes, now_ms: int) -> KeyRecord | None:
        """The record, if it is young enough."""
        until_ms, record = self._kept.get(key_hash, (0, None))
        return record if now_ms < until_ms else None

    def add(self, record: KeyRecord, now_ms: int) -> None:
        """Remember a record as the store has it now."""
        self.forget(record.hash)
        while len(self._kept) >= self._most:
            del self._kept[next(iter(self._kept))]
        self._kept[record.hash] = (now_ms + self._remember_ms, record)

    def forget(self, key_hash: bytes) -> None:
        """Ask the store the next time."""
        self._kept.pop(key_hash, None)
