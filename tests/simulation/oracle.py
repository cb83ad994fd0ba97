"""What the stored collection must be: the committed syncs merged one after another into a plain SQLite file.

There is no session, journal, version or worker here, and no message is looked at twice. That the merge itself
is the official server's is examined beside it, see `official`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import apsw

from app.sync import changes, graves, messages
from app.sync.journal import digest
from storage.collection.collection import Collection
from storage.collection.engine.codec import Codec
from storage.collection.records import Chunk
from storage.collection.stamps import read_stamps
from tests.app.sync.scripts import TABLES
from tests.simulation.device import open_bytes

Dump = dict[str, list[tuple[Any, ...]]]


@dataclass
class Attempt:
    """One sync of a device, as it was sent."""

    device: int
    client_usn: int = 0
    client_is_newer: bool = False
    messages: list[tuple[str, bytes]] = field(default_factory=list)
    """Those that bring rows, each once; graves that came with `start` among them."""
    is_finishing: bool = False
    """`finish` was sent: from here on the sync may be committed."""


class Oracle:
    """One user's collection. Each method makes one version."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._connection: apsw.Connection | None = None
        self.dumps: dict[int, Dump] = {}
        """By version."""

    @property
    def connection(self) -> apsw.Connection:
        assert self._connection is not None, "nothing was committed yet"
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def replace(self, version: int, content: bytes) -> None:
        """An uploaded file, or the empty collection of a new user."""
        self.close()
        self._connection = open_bytes(content)
        self._note(version)

    def raise_usn(self, version: int, mod_ms: int) -> None:
        """A download; `mod_ms` is the time that the server gave it."""
        self.connection.execute("UPDATE col SET usn = usn + 1, mod = ?", (mod_ms,))
        self._note(version)

    def sync(
        self, version: int, attempt: Attempt, started_ms: int, came_ms: dict[bytes, int], mod_ms: int
    ) -> None:
        """A sync. `came_ms`: when each message came, by digest; `mod_ms`: the time the server gave it."""
        db, now_s = self.connection, started_ms // 1000
        with db:
            collection = Collection(db, self._codec, read_stamps(db))
            usn = collection.usn
            collection.unbury(collection.plan_unburying(now_s), now_s)
            for method, body in attempt.messages:
                if method == messages.APPLY_GRAVES:
                    deleted = messages.read_apply_graves(body).graves
                    collection.apply_graves(graves.to_storage(deleted), usn)
                elif method == messages.APPLY_CHANGES:
                    changed = changes.to_storage(messages.read_apply_changes(body).changes)
                    is_owed = not attempt.client_is_newer
                    collection.apply_changes(
                        changed, usn, came_ms[digest(method, body)] // 1000, sent_config=is_owed
                    )
                else:
                    rows = messages.read_apply_chunk(body).chunk
                    collection.apply_chunk(Chunk(rows.revlog, rows.cards, rows.notes), attempt.client_usn)
            collection.finish(mod_ms)
        self._note(version)

    def stamps(self) -> dict[str, Any]:
        return read_stamps(self.connection)

    def _note(self, version: int) -> None:
        self.dumps[version] = dump(self.connection)


def dump(connection: apsw.Connection) -> Dump:
    """All rows of all tables; the database must be sound."""
    assert connection.pragma("integrity_check") == "ok"
    return {
        table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in TABLES
    }


def dump_bytes(content: bytes) -> Dump:
    connection = open_bytes(content)
    try:
        return dump(connection)
    finally:
        connection.close()


def difference(found: Dump, expected: Dump) -> str:
    """Rows that only one of two has, by table; empty if there are none."""
    different = {
        table: {
            "found": [row for row in found[table] if row not in expected[table]],
            "expected": [row for row in expected[table] if row not in found[table]],
        }
        for table in TABLES
        if found[table] != expected[table]
    }
    return json.dumps(different, indent=1, default=repr) if different else ""
