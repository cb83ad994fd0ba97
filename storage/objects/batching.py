"""Group commit for small objects: puts that are requested while a call to the store runs share the next call.

For object stores on a disk, where a call costs one sync however many objects it has. A put never waits in
order to share a call: if no call runs, it starts at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Final

from storage.errors import StorageError
from storage.objects.base import ObjectStore

_MOST_BYTES: Final = 1 << 20


@dataclass(slots=True, eq=False)
class _Waiting:
    key: str
    content: bytes
    is_done: bool = False
    error: StorageError | None = None


class GroupCommit:
    """The `put` of an object store for any number of greenlets."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._turn = Lock()
        self._waiting: list[_Waiting] = []

    def __call__(self, key: str, content: bytes) -> None:
        """As `ObjectStore.put`. If the call fails, all puts that share it raise its error."""
        mine = _Waiting(key, content)
        self._waiting.append(mine)
        # While this caller waits for the lock, another one may put its object, too.
        with self._turn:
            if not mine.is_done:
                self._put(mine)
        if mine.error is not None:
            raise mine.error

    def _put(self, mine: _Waiting) -> None:
        batch = self._take(mine)
        try:
            self._objects.put_many([(one.key, one.content) for one in batch])
        except StorageError as exc:
            for one in batch:
                one.error = exc
        except BaseException:
            # This greenlet is being killed, or its object caused the error: the other puts try again.
            self._waiting[:0] = [one for one in batch if one is not mine]
            raise
        for one in batch:
            one.is_done = True

    def _take(self, mine: _Waiting) -> list[_Waiting]:
        """The caller's object and waiting ones, up to `_MOST_BYTES` in total; the rest stays waiting."""
        batch, size = [mine], len(mine.content)
        rest = []
        for one in self._waiting:
            if one is mine:
                continue
            if size + len(one.content) <= _MOST_BYTES:
                size += len(one.content)
                batch.append(one)
            else:
                rest.append(one)
        self._waiting = rest
        return batch
