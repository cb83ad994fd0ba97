"""The step `meta`: what a client needs to choose between no sync, a normal and a full one.

Called by `service`; it reads the heads of collection and media, and no database.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from app.errors import UnsupportedVersion
from app.sync import version
from app.sync.messages import MetaAnswer, MetaRequest
from storage.types import Head

_MB: Final = 1_000_000

NO_V2_SCHEDULER = "Your client does not support the v2 scheduler"
NO_V2_TIMEZONE = "Your client does not support the new timezone handling."


class Limits(NamedTuple):
    """How large a collection may be to be synced other than one way."""

    size_bytes: int
    quota_bytes: int | None
    """What its user may keep; None: no limit."""


def meta(request: MetaRequest, collection: Head, media: Head, now_ms: int, limits: Limits) -> MetaAnswer:
    """A collection that has grown over a limit claims another schema, which forces a one-way sync.

    So a user can make it smaller on one device and upload that, or download. If it is over the user's quota,
    clients show a text that says so.

    Source: rslib/src/sync/collection/meta.rs of ankitects/anki. Raises: UnsupportedVersion.
    """
    if not version.is_spoken(request.version):
        raise UnsupportedVersion(f"protocol version {request.version}")
    stamps = collection.stamps
    size_bytes = collection.page_size * collection.page_count
    complaint = message = _complaint(request.version, stamps)
    is_too_large = size_bytes > limits.size_bytes
    if limits.quota_bytes is not None and size_bytes > limits.quota_bytes:
        is_too_large = True
        message = complaint or over_quota(size_bytes, limits.quota_bytes)
    return MetaAnswer(
        mod_ms=stamps.get("mod", 0),
        # No device has this schema time, so it asks for a one-way sync.
        schema_ms=now_ms if is_too_large else stamps.get("scm", 0),
        usn=stamps.get("usn", 0),
        now_s=now_ms // 1000,
        message=message,
        go_on=not complaint,
        host_number=0,
        empty=not stamps.get("cards", 0),
        media_usn=media.stamps.get("usn", 0),
    )


def over_quota(size_bytes: int, quota_bytes: int) -> str:
    """What the user of a collection that is too large is told."""
    return (
        f"Your collection has {-(-size_bytes // _MB)} MB, and your account on this server allows "
        f"{quota_bytes // _MB} MB. Delete what you do not need, use Check Database, and upload it again; or "
        "ask the administrator of the server for more."
    )


def answer_of_refusal(text: str, now_ms: int) -> MetaAnswer:
    """The answer by which a client ends its sync and shows `text`. It looks at clock and text alone."""
    return MetaAnswer(
        mod_ms=0, schema_ms=0, usn=0, now_s=now_ms // 1000, message=text, go_on=False, host_number=0,
        empty=False, media_usn=0,
    )  # fmt: skip


def _complaint(client_version: int, stamps: dict[str, int | bool]) -> str:
    """Why the client cannot sync this collection, or "". A new one has no stamps, and scheduler v2."""
    if stamps.get("v2", True) and client_version < version.V2_SCHEDULER:
        return NO_V2_SCHEDULER
    if stamps.get("timezone") and client_version < version.V2_TIMEZONE:
        return NO_V2_TIMEZONE
    return ""
