"""The port by which a sync checks the host key of a request. Implemented by `app.auth.authenticator`.

A host key contains the id of its user, and is valid if it has a record in the key store. A step of a
running sync needs no read of that record: if the session in the head record was started with the same key
a short while ago, the key is valid. So a worker that serves a sync for the first time reads one record,
the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from storage.types import UserId


class Proof(Protocol):
    """The result of checking a host key."""

    @property
    def until_ms(self) -> int:
        """Until this time steps of a sync that was started with this key need no other check; 0: never."""


class Admission(Protocol):
    """The host key of a request."""

    @property
    def user(self) -> UserId:
        """The user in the key; unchecked until `prove` has returned."""

    @property
    def key_hash(self) -> bytes:
        """The hash of the key."""

    @property
    def is_proven(self) -> bool:
        """Whether `prove` has returned."""

    def prove(self, session_key_hash: bytes = b"", session_until_ms: int = 0) -> Proof:
        """Check that the key is valid, by the session's data if they fit, else by the key store.

        Calling it again costs nothing. Raises: AuthError, ServiceUnavailable.
        """


@dataclass(frozen=True, slots=True)
class Admitted:
    """An admission whose key has been checked already."""

    user: UserId
    key_hash: bytes = b""
    until_ms: int = 0
    is_proven: bool = True

    def prove(self, session_key_hash: bytes = b"", session_until_ms: int = 0) -> Proof:
        """Return itself, as the key has been checked."""
        del session_key_hash, session_until_ms
        return self
