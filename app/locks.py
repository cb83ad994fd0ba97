"""Locks by key, for greenlets of one process; used for media indexes.

A lock exists only while it is held or waited for. Between processes the conditions of writes to the stores
decide.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class _Shared:
    lock: AbstractContextManager[Any]
    waiters: int = 0


class KeyedLocks:
    """One lock per key. The table itself needs no lock, as no greenlet switch happens while it is changed."""

    def __init__(self, new_lock: Callable[[], AbstractContextManager[Any]]) -> None:
        self._new_lock = new_lock
        self._shared: dict[Hashable, _Shared] = {}

    @contextmanager
    def __call__(self, key: Hashable) -> Iterator[None]:
        """Hold the lock of `key` within the block."""
        # From here to the lock nothing can switch to another greenlet.
        shared = self._shared.get(key)
        if shared is None:
            shared = self._shared[key] = _Shared(self._new_lock())
        shared.waiters += 1
        try:
            with shared.lock:
                yield
        finally:
            shared.waiters -= 1
            if not shared.waiters:
                del self._shared[key]
