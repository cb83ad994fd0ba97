"""The sessions of a user's browsers, as records of the key store."""

from __future__ import annotations

from app.auth.hostkeys import HostKeys, KeyKind
from app.web.visitor import Visitors
from storage.types import UserId


def end_old_sessions(keys: HostKeys, user: UserId, visitors: Visitors) -> None:
    """Remove the records of sessions that are over because of their age."""
    for record in list(keys.list(user)):
        if record.kind is KeyKind.BROWSER and visitors.is_over(record):
            keys.revoke(record.hash)
