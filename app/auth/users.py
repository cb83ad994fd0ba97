"""The port of the user directory, which checks passwords and confirms earlier logins.

Used by `authenticator`; implemented by `local` and `cognito`.
"""

from __future__ import annotations

import unicodedata
from typing import Protocol

from app.errors import ServiceUnavailable
from storage.types import UserId

NAME_LENGTH = 128


class Identity:
    """The user of a login, and the directory's proof of it.

    `proof` is what the directory needs to confirm the login later (a stamp of the password, a refresh
    token). It is stored only encrypted with the host key.
    """

    __slots__ = ("proof", "user")

    def __init__(self, user: UserId, proof: bytes) -> None:
        self.user, self.proof = user, proof

    def __repr__(self) -> str:
        return f"Identity({self.user})"


class CannotConfirm(ServiceUnavailable):
    """A login that cannot be confirmed now, while those of other users may be."""


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
        """Check a password; takes the same time for an unknown name. Raises: AuthError."""

    def knows(self, username: str) -> bool | None:
        """Whether there is a user of that name; None if that cannot be told. Never answered to a client."""

    def confirm(self, identity: Identity) -> Identity | None:
        """The identity with its present proof; None if the login has ended (user removed, password changed).

        None deletes the key, so it must be certain. Raises: CannotConfirm; ServiceUnavailable; AuthError
        to reject this request without deleting the key.
        """


def normal_name(name: str) -> str:
    """The name in Unicode normal form C, as keyboards may compose the same letter differently."""
    return unicodedata.normalize("NFC", name)


def fault_of_name(name: str) -> str | None:
    """Why a user name is invalid; None if it is valid."""
    if not name or len(name) > NAME_LENGTH:
        return f"a user name has 1 to {NAME_LENGTH} characters"
    if name != name.strip():
        return "a user name neither begins nor ends with a space"
    if any(unicodedata.category(char).startswith("C") for char in name):
        return "a user name has no control characters"
    return None
