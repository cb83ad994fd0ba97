"""The port of the user directory: who may log in, and whether a login still stands."""

from __future__ import annotations

import unicodedata
from typing import Protocol

from app.errors import ServiceUnavailable
from storage.types import UserId

NAME_LENGTH = 128


class Identity:
    """Who a password belonged to, and what that login rests on.

    `proof` is the directory's own: whatever it needs to say later whether the login still stands
    (a stamp of the password, a refresh token). It is stored only sealed under the host key.
    """

    __slots__ = ("proof", "user")

    def __init__(self, user: UserId, proof: bytes) -> None:
        self.user, self.proof = user, proof

    def __repr__(self) -> str:
        return f"Identity({self.user})"


class CannotConfirm(ServiceUnavailable):
    """One login cannot be confirmed now; logins of others may well be."""


class UserDirectory(Protocol):
    """All methods raise ServiceUnavailable when the directory is away; a wrong password never does."""

    verify_at_once: int
    """How many passwords a process may have verified at the same time."""

    recheck_after_ms: int
    """How long a login that `confirm` found good may go on unasked; 0: asked at every request."""

    outage_grace_ms: int
    """How long after the last good answer keys go on working while the directory is away; 0: it is in this
    process, and `confirm` answers at once."""

    def verify(self, username: str, password: str) -> Identity:
        """Check a password; an unknown name costs the same time. Raises: AuthError."""

    def knows(self, username: str) -> bool | None:
        """Whether there is a user of that name; None if that cannot be told. Never answered to a client."""

    def confirm(self, identity: Identity) -> Identity | None:
        """The identity with its proof as it now is; None once user or password are no longer good.

        Raises: CannotConfirm; ServiceUnavailable; AuthError when this request is to be refused. Only None
        ends the key for good, so it must be certain.
        """


def normal_name(name: str) -> str:
    """One spelling of a name: two keyboards may compose the same letter differently."""
    return unicodedata.normalize("NFC", name)


def fault_of_name(name: str) -> str | None:
    """Why a new user may not be called so; None where it may."""
    if not name or len(name) > NAME_LENGTH:
        return f"a user name has 1 to {NAME_LENGTH} characters"
    if name != name.strip():
        return "a user name neither begins nor ends with a space"
    if any(unicodedata.category(char).startswith("C") for char in name):
        return "a user name has no control characters"
    return None
