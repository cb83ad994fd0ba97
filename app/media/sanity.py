"""The method `mediaSanity`: compares the number of files. It reads the head record only."""

from __future__ import annotations

from app.media.messages import answer, read_sanity
from storage.types import Head


def media_sanity(payload: bytes, head: Head) -> bytes:
    """`"OK"`, or `"mediaSanity"`, after which the client resets its state and lists all changes again."""
    request = read_sanity(payload)
    return answer("OK" if request.local_count == head.stamps.get("count", 0) else "mediaSanity")
