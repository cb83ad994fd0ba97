"""The method `uploadChanges`: stores a batch of added, replaced and removed files, all of it or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from app.errors import QuotaExceeded
from app.media.gate import IndexGate
from app.media.messages import answer
from app.media.unzip import Batch
from storage.database.orders import Quota
from storage.database.origin import Kind, Origin
from storage.media.blobs import Blobs
from storage.media.index import MediaIndex, Totals
from storage.types import UserId

_MB: Final = 1_000_000


def upload_changes(  # noqa: PLR0913 - one caller, by name
    batch: Batch, user: UserId, now_s: int, gate: IndexGate, blobs: Blobs, *, device: str, quota: Quota
) -> bytes:
    """`[processed, usn]`; `processed` counts all entries, also those that changed nothing.

    The contents are durable before the index names them, the small ones by one sync with the index's own
    change; a crash in between leaves blobs that nothing refers to, for the sweep.
    Raises: QuotaExceeded if the user would keep too much, and more than before; nothing is stored then.
    """
    refusal: QuotaExceeded | None = None

    def change(index: MediaIndex) -> bool:
        nonlocal refusal
        before = index.totals()
        is_changed = index.apply(batch.changes, now_s)
        refusal = _find_excess(quota, before, index.totals())
        return is_changed and refusal is None

    if quota != Quota() and any(isinstance(blob.content, Path) for blob in batch.blobs):
        # Large contents are put before the index changes, so it is looked up first what they would come to.
        totals = gate.read(user, lambda index: index.totals_with(batch.changes), otherwise=_alone(batch))
        if (refusal := _find_excess(quota, *totals)) is not None:
            raise refusal
    small = blobs.put_files(batch.blobs)
    changed = gate.change(user, change, extra_objects=small, origin=Origin(Kind.MEDIA, device))
    if refusal is not None:
        raise refusal
    # Nothing changed in the index, but an older version may refer to these contents: renew them.
    if not changed.is_committed:
        blobs.put_rest(small)
    return answer((len(batch.changes), changed.stamps.get("usn", 0)))


def _alone(batch: Batch) -> tuple[Totals, Totals]:
    """The totals of a user without media, before and after the batch."""
    sizes = [facts.size_bytes for facts in dict(batch.changes).values() if facts is not None]
    return Totals(0, 0), Totals(len(sizes), sum(sizes))


def _find_excess(quota: Quota, before: Totals, after: Totals) -> QuotaExceeded | None:
    if quota.media_files is not None and after.files > max(quota.media_files, before.files):
        return QuotaExceeded(
            f"Your account on this server allows {quota.media_files} media files, and these would be "
            f"{after.files}. {_ADVICE}"
        )
    if quota.media_bytes is not None and after.size_bytes > max(quota.media_bytes, before.size_bytes):
        return QuotaExceeded(
            f"Your account on this server allows {quota.media_bytes // _MB} MB of media, and these would be "
            f"{-(-after.size_bytes // _MB)} MB. {_ADVICE}"
        )
    return None


_ADVICE: Final = (
    "Delete what you do not need by Check Media, or ask the administrator of the server for more."
)
