"""The method `begin`: the USN of the user's media. It reads the head record only."""

from __future__ import annotations

from app.media.messages import BeginAnswer, answer, read_begin
from storage.types import Head


def begin(payload: bytes, hkey: str, head: Head) -> bytes:
    """`{usn, sk}`; `sk` is the host key, which older clients use from then on."""
    read_begin(payload)
    return answer(BeginAnswer(usn_of(head), hkey))


def usn_of(head: Head) -> int:
    """The last USN of a media index; 0 if the user never had media."""
    return head.stamps.get("usn", 0)
