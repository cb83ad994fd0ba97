"""Objects in a dictionary, for tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from storage.errors import NotFound
from storage.objects.base import ObjectStat
from storage.objects.keys import check_key, check_prefix, check_range

_PIECE_BYTES: Final = 1 << 20


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryObjectStore:
    """The object store of one process."""

    def __init__(self, clock_ms: Callable[[], int] = _now_ms) -> None:
        self._clock_ms = clock_ms
        self._objects: dict[str, tuple[bytes, int]] = {}

    def put(self, key: str, content: bytes | memoryview) -> None:
        check_key(key)
        self._objects[key] = (bytes(content), self._clock_ms())

    def put_many(self, items: Iterable[tuple[str, bytes | memoryview]]) -> None:
        for key, content in items:
            self.put(key, content)

    def put_file(self, key: str, path: Path) -> None:
        self.put(key, path.read_bytes())

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        check_key(key)
        check_range(start, length)
        content = self._content(key)
        return content[start:] if length is None else content[start : start + length]

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        for key in keys:
            check_key(key)
        return [found[0] if (found := self._objects.get(key)) else None for key in keys]

    def stream(self, key: str) -> Iterator[bytes]:
        check_key(key)
        content = self._content(key)
        return (content[at : at + _PIECE_BYTES] for at in range(0, len(content), _PIECE_BYTES))

    def find(self, key: str) -> ObjectStat | None:
        check_key(key)
        found = self._objects.get(key)
        return None if found is None else ObjectStat(key, len(found[0]), found[1], self._clock_ms())

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        check_prefix(prefix)
        found = map(self.find, [key for key in sorted(self._objects) if key.startswith(prefix)])
        return (stat for stat in found if stat is not None)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            check_key(key)
            self._objects.pop(key, None)

    def delete_old(self, keys: Sequence[str], before_ms: int) -> Sequence[str]:
        for key in keys:
            check_key(key)
        old = [key for key in keys if key in self._objects and self._objects[key][1] < before_ms]
        self.delete(old)
        return old

    def _content(self, key: str) -> bytes:
        found = self._objects.get(key)
        if found is None:
            raise NotFound(key)
        return found[0]
