"""Stores the contents of media files (blobs): one object per content, shared by all users, never changed.

Used by `app.media`. The key is `blobs/<SHA-256 in hex>` and the object is the plain content; file names
are in the index. Keys have no subfolders: so on one machine a batch of files is in one folder, which is
synced once. Contents are compared with their hash when they are read for a client.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from storage.errors import Corrupt, NotFound, StorageError, Unavailable
from storage.media.index import FileFacts, FileRow
from storage.objects.base import Objects, ObjectStore
from storage.types import Offload, run_inline

PREFIX = "blobs/"
LARGE_BYTES = 1 << 20
"""Contents of this size or larger are never held in memory as a whole."""

log = logging.getLogger("ankisyncd.media")

A = TypeVar("A")
B = TypeVar("B")


class InParallel(Protocol):
    """Applies a function to several items, possibly in parallel; results in order."""

    def __call__(self, function: Callable[[A], B], items: Sequence[A], /) -> list[B]:
        """All results. Raises the exception of the first item that has one."""


def in_turn(function: Callable[[A], B], items: Sequence[A], /) -> list[B]:
    """Apply it to one item after the other: for stores whose `find` is fast."""
    return [function(item) for item in items]


class NewBlob(NamedTuple):
    """A content to store: its bytes, or a file (which may be moved away)."""

    sha256: bytes
    content: bytes | Path


def facts_of(content: bytes, crc32: int) -> FileFacts:
    """The facts of a content whose CRC-32 is known already."""
    sha1 = hashlib.sha1(content, usedforsecurity=False).digest()
    return FileFacts(sha1, hashlib.sha256(content).digest(), crc32, len(content))


class Digester:
    """Computes the facts of a content from its pieces."""

    def __init__(self) -> None:
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._sha256 = hashlib.sha256()
        self._crc32 = 0
        self._size_bytes = 0

    def update(self, piece: bytes) -> None:
        """Add the next piece."""
        self._sha1.update(piece)
        self._sha256.update(piece)
        self._crc32 = zlib.crc32(piece, self._crc32)
        self._size_bytes += len(piece)

    def facts(self) -> FileFacts:
        """The facts of all pieces so far."""
        return FileFacts(self._sha1.digest(), self._sha256.digest(), self._crc32, self._size_bytes)


class Blobs:
    """The contents in an object store.

    `fresh_ms`: a blob that exists is relied upon only if it is younger, by the store's clock; an older one
    is written again. It must be at most half of the sweep's grace (see `storage.media.sweep`). `offload`
    runs the hashing of contents that are read. `in_parallel` looks several blobs up, which is worth it for
    a store behind a network.
    """

    def __init__(
        self,
        objects: ObjectStore,
        *,
        fresh_ms: int,
        offload: Offload[Any] = run_inline,
        in_parallel: InParallel = in_turn,
    ) -> None:
        self._objects = objects
        self._offload = offload
        self._fresh_ms = fresh_ms
        self._in_parallel = in_parallel

    def put_new(self, blobs: Sequence[NewBlob]) -> int:
        """Store all these contents, durably on return; returns how many had to be written.

        `sha256` is not checked here: the caller must have computed it from the bytes.
        """
        wanted = self._wanted(blobs)
        self.put_rest(self._put_files(wanted))
        return len(wanted)

    def put_files(self, blobs: Sequence[NewBlob]) -> Objects:
        """The first half of `put_new`: store the contents that are in files.

        Returns the other objects, for `put_rest`, or to be put together with other objects.
        """
        return self._put_files(self._wanted(blobs))

    def put_rest(self, rest: Objects) -> None:
        """The second half of `put_new`: store the objects that `put_files` returned."""
        if rest:
            self._objects.put_many(rest)

    def _wanted(self, blobs: Sequence[NewBlob]) -> list[NewBlob]:
        # Files of a batch may have the same content.
        unique = list({blob.sha256: blob for blob in blobs}.values())
        fresh = self._in_parallel(lambda blob: self._is_fresh(blob.sha256), unique)
        return [blob for blob, is_fresh in zip(unique, fresh, strict=True) if not is_fresh]

    def _put_files(self, wanted: Sequence[NewBlob]) -> Objects:
        for blob in wanted:
            if isinstance(blob.content, Path):
                self._objects.put_file(key_of(blob.sha256), blob.content)
        return [(key_of(blob.sha256), blob.content) for blob in wanted if isinstance(blob.content, bytes)]

    def renew(self, row: FileRow, copy: Path) -> bool:
        """Write a blob again, so that no sweep deletes it for its age; False if it is lost.

        It is read into the file `copy`, compared with its hash, and put from there.
        """
        if not self.write_file(row, copy):
            return False
        self.put_new([NewBlob(row.sha256, copy)])
        return True

    def write_file(self, row: FileRow, path: Path) -> bool:
        """Write a blob into a file; False if it is lost or damaged, and what is in the file is of no use."""
        pieces = self.find_stream(row)
        if pieces is None:
            return False
        digester = Digester()
        try:
            with path.open("wb") as file:
                for piece in pieces:
                    digester.update(piece)
                    file.write(piece)
        except Corrupt:
            return False
        return digester.facts().sha256 == row.sha256

    def read_many(self, rows: Sequence[FileRow]) -> list[bytes | None]:
        """The contents of small files, each compared with its hash; None for a missing or damaged blob.

        A damaged blob is removed: see `is_sound`. Raises: Corrupt if the index has another size.
        """
        contents = self._objects.read_many([key_of(row.sha256) for row in rows])
        sound: list[bool] = self._offload(
            lambda: [_is_content(*pair) for pair in zip(rows, contents, strict=True)]
        )
        for at, row in enumerate(rows):
            if contents[at] is not None and not sound[at]:
                # Read it once more: the damage may have happened on the way.
                contents[at] = self._read_again(row)
        for row, content in zip(rows, contents, strict=True):
            if content is not None and len(content) != row.size_bytes:
                raise Corrupt(key_of(row.sha256), row.size_bytes, len(content))
        return contents

    def _read_again(self, row: FileRow) -> bytes | None:
        if not self.is_sound(row):
            return None
        content = self._objects.read(key_of(row.sha256))
        if not _is_content(row, content):
            raise Unavailable(f"{key_of(row.sha256)} is read with other bytes each time")
        return content

    def is_sound(self, row: FileRow) -> bool:
        """Read a whole blob; returns whether it exists and has its hash.

        One with another hash, also when read a second time, is logged and removed: otherwise a new upload
        of the content would rely on it.
        """
        key = key_of(row.sha256)
        for is_last in (False, True):
            stat = self._objects.find(key)
            if stat is None:
                return False
            found = self._digest(key)
            if found == row.sha256:
                return True
            if is_last:
                damage = Corrupt(key, row.sha256.hex(), "nothing" if found is None else found.hex())
                log.error("%s is not what was uploaded: it is removed", key, exc_info=damage)
                # Only if it was not written again since then.
                self._remove(key, stat.modified_ms)
        return False

    def _remove(self, key: str, modified_ms: int) -> None:
        """Remove a damaged blob, if this process may delete objects.

        Otherwise it is written again by the next upload that finds it older than `fresh_ms`.
        """
        try:
            self._objects.delete_old([key], modified_ms + 1)
        except StorageError as exc:
            log.warning("%s could not be removed: %s", key, exc)

    def _digest(self, key: str) -> bytes | None:
        digest = hashlib.sha256()
        try:
            for piece in self._objects.stream(key):
                self._offload(functools.partial(digest.update, piece))
        except NotFound:
            return None
        return digest.digest()

    def find_stream(self, row: FileRow) -> Iterator[bytes] | None:
        """The content in pieces of at most 1 MiB, or None if the blob is missing.

        The first piece is fetched before this returns. The iterator raises Corrupt if there are more or fewer
        bytes than in the index.
        """
        try:
            pieces = iter(self._objects.stream(key_of(row.sha256)))
            first = next(pieces, b"")
        except NotFound:
            return None
        return _exactly(row, first, pieces)

    def _is_fresh(self, sha256: bytes) -> bool:
        stat = self._objects.find(key_of(sha256))
        if stat is None or stat.now_ms is None:
            return False
        # Two-sided, so that a blob with a time far in the future counts as old, and is written again.
        return stat.now_ms - self._fresh_ms < stat.modified_ms <= stat.now_ms + self._fresh_ms


def _is_content(row: FileRow, content: bytes | None) -> bool:
    return content is not None and hashlib.sha256(content).digest() == row.sha256


def key_of(sha256: bytes) -> str:
    """The key of the object that keeps this content."""
    return PREFIX + sha256.hex()


def _exactly(row: FileRow, first: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    left = row.size_bytes - len(first)
    yield first
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            break
        yield piece
    if left:
        raise Corrupt(key_of(row.sha256), row.size_bytes, row.size_bytes - left)
