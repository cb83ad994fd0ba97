"""The port of the object store: immutable objects by key. A key has the same content for ever.

Used by `storage.database` and `storage.media`; implemented by `local`, `s3` and `memory`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

Objects = Sequence[tuple[str, bytes]]
"""Keys and contents of small objects."""


class ObjectStat(msgspec.Struct, frozen=True):
    """Size and age of one object."""

    key: str
    size_bytes: int
    modified_ms: int
    """By the store's clock."""
    now_ms: int | None = None
    """That clock when `find` was answered; None in a listing, and if the store does not give it."""


class ObjectStore(Protocol):
    """Keys are `/`-separated, [A-Za-z0-9._-] in each part, at most 512 characters.

    All methods raise `Unavailable` if the store is not available. Every write is durable on return, visible
    whole or not at all, and idempotent: the same key is only ever put with the same bytes. Reads are
    consistent: after a put has returned the object is found, after a delete it is not.
    """

    def put(self, key: str, content: bytes | memoryview) -> None:
        """Store small content (up to some MiB)."""

    def put_many(self, items: Iterable[tuple[str, bytes | memoryview]]) -> None:
        """Store several objects, as fast as the backend can; after an error any of them may be stored."""

    def put_file(self, key: str, path: Path) -> None:
        """Store a file of any size without holding it in memory. The file may be moved away."""

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The object's bytes, or `length` bytes from `start`. Raises: NotFound."""

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The contents of several small objects, as fast as the backend can; None for one that is missing."""

    def stream(self, key: str) -> Iterator[bytes]:
        """The object in pieces of at most 1 MiB.

        Raises: NotFound, by the call itself; Unavailable, by the iterator, if the transfer breaks off.
        """

    def find(self, key: str) -> ObjectStat | None:
        """Size and age of one object, or None if it is missing."""

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """All objects whose key begins with `prefix`, ordered by key; lazy."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are no error."""

    def delete_old(self, keys: Sequence[str], before_ms: int) -> Sequence[str]:
        """Delete those objects that were last written before `before_ms`; returns their keys, in order.

        An object that is written again meanwhile stays. A store that has no atomic operation for this reads
        the age of each object right before it deletes it.
        """
