"""uploadChanges: takes a batch of added, replaced and removed files. All of it, or nothing."""

from __future__ import annotations

from app.media.gate import IndexGate
from app.media.messages import answer
from app.media.unzip import Batch
from storage.media.blobs import Blobs
from storage.types import UserId


def upload_changes(batch: Batch, user: UserId, now_s: int, gate: IndexGate, blobs: Blobs) -> bytes:
    """`[processed, usn]`; `processed` counts all entries, also those that changed nothing.

    The contents are durable before the index names them; a crash in between leaves blobs that
    nobody names, for the sweep.
    """
    blobs.put_new(batch.blobs)
    stamps = gate.change(user, lambda index: index.apply(batch.changes, now_s))
    return answer((len(batch.changes), stamps.get("usn", 0)))
