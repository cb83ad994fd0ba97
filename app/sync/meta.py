"""`meta`: what a client needs to know before it syncs. Read from two head records, no file."""

from __future__ import annotations

from app.errors import UnsupportedVersion
from app.sync import version
from app.sync.messages import MetaAnswer, MetaRequest
from storage.types import Head

NO_V2_SCHEDULER = "Your client does not support the v2 scheduler"
NO_V2_TIMEZONE = "Your client does not support the new timezone handling."


def meta(request: MetaRequest, collection: Head, media: Head, now_ms: int, limit_bytes: int) -> MetaAnswer:
    """A collection that has grown over the limit claims another schema, which forces a one-way sync.

    Source: rslib/src/sync/collection/meta.rs of ankitects/anki. Raises: UnsupportedVersion.
    """
    if not version.is_spoken(request.version):
        raise UnsupportedVersion(f"protocol version {request.version}")
    stamps = collection.stamps
    is_too_large = collection.page_size * collection.page_count > limit_bytes
    complaint = _complaint(request.version, stamps)
    return MetaAnswer(
        mod_ms=stamps.get("mod", 0),
        schema_ms=now_ms if is_too_large else stamps.get("scm", 0),
        usn=stamps.get("usn", 0),
        now_s=now_ms // 1000,
        message=complaint,
        go_on=not complaint,
        host_number=0,
        empty=not stamps.get("cards", 0),
        media_usn=media.stamps.get("usn", 0),
    )


def refusal(text: str, now_ms: int) -> MetaAnswer:
    """The answer by which a client ends its sync and shows `text`. It looks at clock and text alone."""
    return MetaAnswer(
        mod_ms=0, schema_ms=0, usn=0, now_s=now_ms // 1000, message=text, go_on=False, host_number=0,
        empty=False, media_usn=0,
    )  # fmt: skip


def _complaint(client_version: int, stamps: dict[str, int | bool]) -> str:
    """A collection that was never used is as the engine makes them: with the v2 scheduler."""
    if stamps.get("v2", True) and client_version < version.V2_SCHEDULER:
        return NO_V2_SCHEDULER
    if stamps.get("timezone") and client_version < version.V2_TIMEZONE:
        return NO_V2_TIMEZONE
    return ""
