"""Makes the first version of a collection, an empty one, when a new user starts a sync or a download."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from storage.collection.engine.empty import create_empty
from storage.collection.schema import configure
from storage.collection.stamps import Stamps, read_stamps
from storage.database.store import Commit, DatabaseStore
from storage.errors import Conflict
from storage.types import DatabaseId, Head, Offload


@dataclass(frozen=True, slots=True)
class Genesis:
    """Makes first versions; `folder` is for temporary files."""

    store: DatabaseStore
    folder: Path
    offload: Offload[Any]
    clock_ms: Callable[[], int]
    nonce: Callable[[], str]

    def make(self, database: DatabaseId, head: Head) -> Head:
        """Commit an empty collection as version 1, unless another worker was first; returns the head."""
        path = self.folder / f"empty-{self.nonce()}"
        try:
            stamps = self.offload(lambda: _create(path))
            # Without a session: this also ends a sync that has started meanwhile.
            commit = Commit(self.nonce(), b"", self.clock_ms(), stamps, None)
            return self.store.replace(database, head, path, commit)
        except Conflict:
            return self.store.head(database)
        finally:
            path.unlink(missing_ok=True)


def _create(path: Path) -> Stamps:
    create_empty(path)
    # With `immutable` SQLite does not create a -wal file.
    uri = f"{path.absolute().as_uri()}?immutable=1"
    connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        configure(connection)
        return read_stamps(connection)
    finally:
        connection.close()
