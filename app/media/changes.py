"""The method `mediaChanges`: lists the changes after the client's USN."""

from __future__ import annotations

from app.media.begin import usn_of
from app.media.gate import IndexGate
from app.media.messages import answer, read_changes
from storage.types import UserId


def media_changes(payload: bytes, user: UserId, gate: IndexGate) -> bytes:
    """`[[name, usn, sha1 or ""], ...]`, ordered by USN, at most 1000.

    The client repeats the request with the last row's USN until the list is empty; an empty answer needs no
    checkout.
    """
    last_usn = read_changes(payload).last_usn
    head = gate.head(user)
    # The client is up to date.
    if last_usn >= usn_of(head):
        return answer([])
    return gate.read(user, lambda index: answer(index.changes_since(last_usn)), otherwise=answer([]))
