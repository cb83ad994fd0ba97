"""`upload` and `download`: a whole collection at a time.

A refused upload leaves everything as it was; an accepted one is a commit like any other, so the
state before it stays in the history.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from app.errors import Refusal, SessionConflict, refusal
from app.sync.genesis import Genesis
from app.sync.version import takes_current_schema
from storage.collection.admit import admit
from storage.collection.codec import Codec
from storage.collection.collection import Collection
from storage.collection.downgrade import downgrade
from storage.collection.stamps import Stamps
from storage.database.checkout import Checkout
from storage.database.image import PageReader
from storage.database.origin import Kind, name_commit
from storage.database.store import Commit, DatabaseStore
from storage.errors import Conflict, InvalidDatabase
from storage.types import DatabaseId, Offload

OK = "OK"
CORRUPT = "Your upload was corrupt. Please use Check Database, or restore from backup."
TOO_LARGE = "collection exceeds size limit"
"""Texts that clients compare with (OK) or show, all under status 200."""

ATTEMPTS = 5
"""How often a commit without a session is tried on a fresh head, each time losing to another."""

BLOCK_BYTES = 4 << 20
"""Each block takes two native threads in turn; larger ones are handed over less often."""

T = TypeVar("T")


class Blocks(Iterator[bytes]):
    """A file's blocks. Closing it lets the file go, also before the first block was taken."""

    def __init__(self, blocks: Iterator[bytes], close: Callable[[], None]) -> None:
        self._blocks, self._close, self._is_open = blocks, close, True

    def __next__(self) -> bytes:
        """The next block, read off the event loop."""
        if not self._is_open:
            raise StopIteration
        return next(self._blocks)

    def close(self) -> None:
        """Harmless when repeated."""
        self._is_open = False
        self._close()

    def __del__(self) -> None:
        self._close()


@dataclass(frozen=True, slots=True)
class Download:
    """A file on its way out."""

    size_bytes: int
    blocks: Blocks


@dataclass(frozen=True, slots=True)
class Transfer:
    """Takes and gives whole collections. `folder` is for temporary files."""

    store: DatabaseStore
    codec: Codec
    genesis: Genesis
    folder: Path
    offload: Offload[Any]
    clock_ms: Callable[[], int]
    nonce: Callable[[], str]

    def admit(self, path: Path) -> tuple[Path, Stamps]:
        """Make a sound file of what a client sent; the caller removes it.

        Raises: InvalidDatabase.
        """
        into = self.folder / f"upload-{self.nonce()}"
        try:
            return into, self.offload(lambda: admit(path, into, self.codec))
        except BaseException as exc:
            if isinstance(exc, InvalidDatabase):
                refusal.set(Refusal("InvalidDatabase", str(exc)))
            into.unlink(missing_ok=True)
            raise

    def replace(self, database: DatabaseId, path: Path, stamps: Stamps, device: str) -> None:
        """Make a file the user's collection, whatever it was before."""
        name = name_commit(Kind.UPLOAD, self.nonce(), device)

        def flip() -> None:
            head = self.store.head(database)
            self.store.replace(database, head, path, Commit(name, OK.encode(), self.clock_ms(), stamps, None))

        _insist(flip)

    def give(self, database: DatabaseId, version: int, device: str) -> Download:
        """The collection as schema 18 or, for legacy clients, 11; its USN and `mod` move on first."""
        checkout = _insist(lambda: self._mark_downloaded(database, device))
        try:
            reader = checkout.reader()
        finally:
            self.store.release(checkout)
        if takes_current_schema(version):
            return Download(reader.size_bytes, Blocks(reader.blocks(BLOCK_BYTES), reader.close))
        file = self._downgraded(reader)
        size_bytes = os.fstat(file.fileno()).st_size
        return Download(size_bytes, Blocks(self._read_on(file), file.close))

    def _downgraded(self, reader: PageReader) -> BinaryIO:
        """A throw-away copy in schema 11, open for reading and already without a name."""
        path = self.folder / f"legacy-{self.nonce()}"
        try:
            with reader, path.open("wb") as file:
                for block in reader.blocks(BLOCK_BYTES):
                    self.offload(partial(file.write, block))
            self.offload(lambda: downgrade(path))
            return path.open("rb")
        finally:
            path.unlink(missing_ok=True)

    def _read_on(self, file: BinaryIO) -> Iterator[bytes]:
        while block := self.offload(lambda: file.read(BLOCK_BYTES)):
            yield block

    def _mark_downloaded(self, database: DatabaseId, device: str) -> Checkout:
        now_ms = self.clock_ms()
        head = self.store.head(database)
        if head.version == 0:
            head = self.genesis.make(database, head)
        checkout = self.store.checkout(database, head)

        def work() -> Stamps:
            checkout.begin()
            collection = Collection(checkout.connection, self.codec, head.stamps)
            collection.mark_downloaded(now_ms)
            return collection.stamps()

        with self.store.discarding(checkout):
            stamps = self.offload(work)
        name = name_commit(Kind.DOWNLOAD, self.nonce(), device)
        self.store.commit(checkout, head, Commit(name, b"", now_ms, stamps, None))
        return checkout


def _insist(attempt: Callable[[], T]) -> T:
    """Try again if another commit was first; the answer does not depend on the state before."""
    for _ in range(ATTEMPTS - 1):
        try:
            return attempt()
        except Conflict:
            continue
    try:
        return attempt()
    except Conflict as exc:
        raise SessionConflict("the collection is changing too fast") from exc
