"""mediaSanity: compares the number of files, out of the head record alone."""

from __future__ import annotations

from app.media.messages import answer, read_sanity
from storage.types import Head


def media_sanity(payload: bytes, head: Head) -> bytes:
    """`"OK"`, or `"mediaSanity"`, on which the client forgets its state and lists everything again."""
    request = read_sanity(payload)
    return answer("OK" if request.local_count == head.stamps.get("count", 0) else "mediaSanity")
