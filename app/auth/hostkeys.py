"""Host keys: what a client stores instead of a password, and the port of where they are kept.

Only the hash of a key is kept, and what is kept beside it is sealed under the key itself. Sessions of
browsers and generated device passwords are kept in the same way; `KeyKind` tells them apart.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from enum import StrEnum
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from storage.heads.keys import check_user
from storage.types import UserId

KEY_BYTES = 32
ID_LENGTH = 12
_NONCE_BYTES = 12


class KeyKind(StrEnum):
    """What a key is good for. Each kind is hashed in its own way, so none is found in place of another."""

    DEVICE = "device"
    """A host key: for the sync protocol."""
    BROWSER = "browser"
    """For the user's own pages."""
    PASSWORD = "password"  # noqa: S105 - a kind of key
    """A generated password, which hostKey takes in place of the account's."""
    DELETION = "deletion"
    """No key: the note that a user wants the account deleted. Its hash is of no key that exists."""


class KeyRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One login of one device. The key cannot be derived from it."""

    hash: bytes
    user: UserId
    client: str
    """The client's description of itself, truncated."""
    created_ms: int
    used_ms: int
    """The last use, within about an hour, as not every request writes it."""
    checked_ms: int
    """When the user directory last confirmed this login."""
    sealed: bytes
    """The directory's proof, encrypted with the host key."""
    kind: KeyKind = KeyKind.DEVICE
    name: str = ""
    """Of a browser: the name that its user signed in with. Of a password: what its user called it. Of a
    device that logged in with such a password: the same."""
    parent: bytes = b""
    """Hash of the generated password that a device logged in with; empty if it was the account's."""

    @property
    def id(self) -> str:
        """The id of the key in lists and commands: the start of its hash."""
        return self.hash.hex()[:ID_LENGTH]


class HostKeys(Protocol):
    """The store of host keys. All methods raise ServiceUnavailable if it is not available.

    After a method has returned, all processes see its effect; a backend with a cache documents the delay.
    """

    def add(self, record: KeyRecord) -> None:
        """Store a new key; durable on return."""

    def find(self, key_hash: bytes) -> KeyRecord | None:
        """The record of a key; None if it is unknown, revoked or too old. Called by every request."""

    def touch(self, record: KeyRecord) -> None:
        """Update `used_ms`, `checked_ms` and `sealed` of a key, unless it has been revoked meanwhile."""

    def revoke(self, key_hash: bytes) -> bool:
        """Delete a key; returns whether it existed."""

    def revoke_all(self, user: UserId) -> int:
        """Delete all keys of a user; returns their number."""

    def list(self, user: UserId | None = None) -> Iterator[KeyRecord]:
        """The keys of one user or of all, oldest first."""


def new_key(user: UserId) -> str:
    """A new key: 256 random bits, a dot, and the user's id; characters [A-Za-z0-9._-]."""
    return f"{secrets.token_urlsafe(KEY_BYTES)}.{user}"


def claimed_user(key: str) -> UserId | None:
    """The user id in a key; None for older keys without one, and for invalid keys.

    It is unchecked: a client can send any text.
    """
    user = UserId(key.partition(".")[2])
    try:
        check_user(user)
    except ValueError:
        return None
    return user


_PREFIXES = {
    KeyKind.DEVICE: b"ankisyncd host key\0",
    KeyKind.BROWSER: b"ankisyncd browser session\0",
    KeyKind.PASSWORD: b"ankisyncd device password\0",
    KeyKind.DELETION: b"ankisyncd deletion\0",
}


def hash_of(key: str, kind: KeyKind = KeyKind.DEVICE) -> bytes:
    """What a key is found by. A plain hash is enough: 256 random bits, or 100, cannot be guessed."""
    return hashlib.sha256(_PREFIXES[kind] + key.encode()).digest()


def seal(key: str, user: UserId, proof: bytes) -> bytes:
    """Encrypt `proof` with the host key: nonce, then AES-256-GCM with the user id as associated data."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + _cipher(key).encrypt(nonce, proof, user.encode())


def unseal(key: str, user: UserId, sealed: bytes) -> bytes | None:
    """Decrypt a proof; None if it was not encrypted with this key for this user."""
    try:
        return _cipher(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], user.encode())
    except (InvalidTag, ValueError):
        return None


def _cipher(key: str) -> AESGCM:
    return AESGCM(hashlib.sha256(b"ankisyncd seal\0" + key.encode()).digest())
