"""begin: tells the USN of the user's media, out of the head record alone."""

from __future__ import annotations

from app.media.messages import BeginAnswer, answer, read_begin
from storage.types import Head


def begin(payload: bytes, hkey: str, head: Head) -> bytes:
    """`{usn, sk}`; `sk` is the host key, which older clients go on with."""
    read_begin(payload)
    return answer(BeginAnswer(usn_of(head), hkey))


def usn_of(head: Head) -> int:
    """The last USN given; 0 for a user who never had media."""
    return head.stamps.get("usn", 0)
