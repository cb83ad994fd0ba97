"""Small objects that are to be put at the same time go to the store in one call.

Refuses to wait for company: what comes while a call runs shares the next one. For stores whose call
costs the same for one object and for many: a sync of the disk.
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


class SharedPut:
    """The `put` of an object store for any number of greenlets."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._turn = Lock()
        self._waiting: list[_Waiting] = []

    def __call__(self, key: str, content: bytes) -> None:
        """As the port's `put`; an error of one is the error of all that shared the call."""
        mine = _Waiting(key, content)
        self._waiting.append(mine)
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
            # This greenlet is being ended, or there is a bug in its object: the others try again.
            self._waiting[:0] = [one for one in batch if one is not mine]
            raise
        for one in batch:
            one.is_done = True

    def _take(self, mine: _Waiting) -> list[_Waiting]:
        """A caller's own and those that wait beside it, while they are not too many bytes."""
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
