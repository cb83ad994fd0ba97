"""The methods `upload` and `download`, for whole collections. Called by `service`.

A rejected upload changes nothing; an accepted one is a commit, so the version before it stays in the history.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from app.errors import Refusal, SessionConflict, refusal
from app.sync.empty_collection import Genesis
from app.sync.version import takes_current_schema
from storage.collection.collection import Collection
from storage.collection.engine.codec import Codec
from storage.collection.engine.downgrade import downgrade
from storage.collection.stamps import Stamps
from storage.collection.upload.admit import admit
from storage.database.local.checkout import Checkout
from storage.database.local.image import PageReader
from storage.database.origin import Kind, Origin, name_commit
from storage.database.store import Commit, DatabaseStore
from storage.errors import Conflict, InvalidDatabase
from storage.types import DatabaseId, Offload

OK = "OK"
CORRUPT = "Your upload was corrupt. Please use Check Database, or restore from backup."
TOO_LARGE = "collection exceeds size limit"
"""Texts that clients compare with (OK) or show, all under status 200."""

ATTEMPTS = 5
"""Attempts of a commit without a session, if another commit is faster each time."""

BLOCK_BYTES = 4 << 20
"""Size of blocks of a download: each is handed to two native threads in turn, so large ones are cheaper."""

T = TypeVar("T")


class Blocks(Iterator[bytes]):
    """The blocks of a file. `close` closes the file, even if no block was read yet."""

    def __init__(self, blocks: Iterator[bytes], close: Callable[[], None]) -> None:
        self._blocks, self._close, self._is_open = blocks, close, True

    def __next__(self) -> bytes:
        """The next block, read off the event loop."""
        if not self._is_open:
            raise StopIteration
        return next(self._blocks)

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        self._is_open = False
        self._close()

    def __del__(self) -> None:
        self._close()


@dataclass(frozen=True, slots=True)
class Download:
    """A file that is sent to a client."""

    size_bytes: int
    blocks: Blocks


@dataclass(frozen=True, slots=True)
class Transfer:
    """Stores and sends whole collections; `folder` is for temporary files."""

    store: DatabaseStore
    codec: Codec
    genesis: Genesis
    folder: Path
    offload: Offload[Any]
    clock_ms: Callable[[], int]
    nonce: Callable[[], str]

    def admit(self, path: Path) -> tuple[Path, Stamps]:
        """Check a client's file; returns a valid collection, which the caller removes, and its stamps.

        Raises: InvalidDatabase.
        """
        into = self.folder / f"upload-{self.nonce()}"
        try:
            return into, self.offload(lambda: admit(path, into, self.codec))
        except BaseException as exc:
            if isinstance(exc, InvalidDatabase):
                # Only for the log: the client gets a fixed text.
                refusal.set(Refusal("InvalidDatabase", str(exc)))
            into.unlink(missing_ok=True)
            raise

    def replace(self, database: DatabaseId, path: Path, stamps: Stamps, origin: Origin) -> None:
        """Make a file the user's collection, whatever its version is."""
        name = name_commit(origin.kind, self.nonce(), origin.device)

        def commit() -> None:
            head = self.store.head(database)
            commit = Commit(name, OK.encode(), self.clock_ms(), stamps, None)
            self.store.replace(database, head, path, commit)

        _insist(commit)

    def give(self, database: DatabaseId, version: int, device: str) -> Download:
        """The collection in schema 18 or, for old clients, 11; increases its USN and `mod` first."""
        checkout = _insist(lambda: self._mark_downloaded(database, device))
        try:
            reader = checkout.reader()
        finally:
            self.store.release(checkout)
        # Streamed from the working copy, which other requests can use meanwhile.
        if takes_current_schema(version):
            return Download(reader.size_bytes, Blocks(reader.blocks(BLOCK_BYTES), reader.close))
        file = self._downgraded(reader)
        size_bytes = os.fstat(file.fileno()).st_size
        return Download(size_bytes, Blocks(self._read_on(file), file.close))

    def _downgraded(self, reader: PageReader) -> BinaryIO:
        """A temporary copy in schema 11, open for reading and already unlinked."""
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
        # A new user downloads an empty collection.
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
    """Repeat an attempt if another commit was first. Raises: SessionConflict after ATTEMPTS."""
    for _ in range(ATTEMPTS - 1):
        try:
            return attempt()
        except Conflict:
            continue
    try:
        return attempt()
    except Conflict as exc:
        raise SessionConflict("the collection is changing too fast") from exc
