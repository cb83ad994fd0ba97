"""Who sends a request of a sync, as far as that is known before the head record is read.

`app.auth` implements it: a host key names its user, and is proven by its own record in the key store. A step
of a running sync has a cheaper proof. The session in the head record was begun with the same key a short
while ago, so the step needs no read of the key on each worker that meets the sync.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from storage.types import UserId


class Proof(Protocol):
    """That a host key was found good."""

    @property
    def until_ms(self) -> int:
        """Until then a step of a sync that was begun with this key needs no other proof; 0: never."""


class Admission(Protocol):
    """A request's host key."""

    @property
    def user(self) -> UserId:
        """Whose the key is; only a claim until `prove` has returned."""

    @property
    def key_hash(self) -> bytes:
        """Tells keys apart."""

    @property
    def is_proven(self) -> bool:
        """Whether `prove` has returned."""

    def prove(self, session_key_hash: bytes = b"", session_until_ms: int = 0) -> Proof:
        """Make sure that the key is the user's: by a session that the same key began, or by the key store.

        Asked again, it costs nothing. Raises: AuthError, ServiceUnavailable.
        """


@dataclass(frozen=True, slots=True)
class Admitted:
    """A user whose key was proven before."""

    user: UserId
    key_hash: bytes = b""
    until_ms: int = 0
    is_proven: bool = True

    def prove(self, session_key_hash: bytes = b"", session_until_ms: int = 0) -> Proof:
        """Nothing is left to prove."""
        del session_key_hash, session_until_ms
        return self
