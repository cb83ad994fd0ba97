"""What one running sync carries from request to request, beside the rows it has changed.

All of it is made again by a replay of the journal; nothing of it is ever written down.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage.collection.collection import Collection
from storage.collection.records import ChunkIds


@dataclass(slots=True)
class SyncState:
    """The steps of a sync read and change this; `now_ms` is the time of the request in hand."""

    collection: Collection
    now_ms: int = 0
    server_usn: int = 0
    """What the client's changes are stored under."""
    client_usn: int = 0
    """From which USN on our rows are new to the client."""
    client_is_newer: bool = False
    """Whose config wins."""
    has_little_to_send: bool = False
    """Whether so few rows are new to the client that reading them takes no time worth a thread."""
    unsent: ChunkIds | None = None
    """Rows that `chunk` has yet to send; None before the first one."""
