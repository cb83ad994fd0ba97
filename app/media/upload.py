"""uploadChanges: takes a batch of added, replaced and removed files. All of it, or nothing."""

from __future__ import annotations

from app.media.gate import IndexGate
from app.media.messages import answer
from app.media.unzip import Batch
from storage.media.blobs import Blobs
from storage.types import UserId


def upload_changes(  # noqa: PLR0913, PLR0917 - one caller
    batch: Batch, user: UserId, now_s: int, gate: IndexGate, blobs: Blobs, device: str
) -> bytes:
    """`[processed, usn]`; `processed` counts all entries, also those that changed nothing.

    The contents are durable before the index names them, the small ones by one sync with the index's own
    change; a crash in between leaves blobs that nobody names, for the sweep.
    """
    small = blobs.put_files(batch.blobs)
    changed = gate.change(user, lambda index: index.apply(batch.changes, now_s), beside=small, device=device)
    if not changed.is_committed:
        blobs.put_rest(small)
    return answer((len(batch.changes), changed.stamps.get("usn", 0)))
