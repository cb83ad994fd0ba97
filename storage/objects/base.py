"""The port of the object store: immutable, uniquely named blobs.

Refuses overwriting with other bytes: a key names one content for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

Objects = Sequence[tuple[str, bytes]]
"""Keys and contents of small objects."""


class ObjectStat(msgspec.Struct, frozen=True):
    """What a listing tells of one object."""

    key: str
    size_bytes: int
    modified_ms: int
    """By the store's clock."""
    now_ms: int | None = None
    """What that clock said when `find` was answered; None in a listing, and where the store does not tell."""


class ObjectStore(Protocol):
    """Keys are `/`-separated, [A-Za-z0-9._-] in each part, at most 512 characters.

    All methods raise `Unavailable` when the store is away. Every write is durable on return,
    visible whole or not at all, and idempotent: the same key is only ever put with the same bytes.
    Reads are consistent: what a finished put wrote is found, what a finished delete removed is not.
    """

    def put(self, key: str, content: bytes | memoryview) -> None:
        """Store small content (up to some MiB)."""

    def put_many(self, items: Iterable[tuple[str, bytes | memoryview]]) -> None:
        """Store several at once, as fast as the backend can; on an error any of them may be there."""

    def put_file(self, key: str, path: Path) -> None:
        """Store a file of any size without holding it in memory. The file may be consumed (moved)."""

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The object's bytes, or `length` bytes from `start`. Raises: NotFound."""

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The whole of several small objects, as fast as the backend can; None for one that is not there."""

    def stream(self, key: str) -> Iterator[bytes]:
        """The object in pieces of at most 1 MiB. Raises NotFound before the first piece.

        Raises Unavailable when the transfer breaks; the caller starts over.
        """

    def find(self, key: str) -> ObjectStat | None:
        """Size and age of one object, or None."""

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """All objects whose key begins with `prefix`, by key; lazy."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; absent ones are fine."""

    def delete_old(self, keys: Sequence[str], before_ms: int) -> Sequence[str]:
        """Remove those objects that were last written before `before_ms`; returns their keys, in order.

        An object that is written anew meanwhile stays. A store that cannot look and delete in one step looks
        at each object right before it deletes it.
        """
