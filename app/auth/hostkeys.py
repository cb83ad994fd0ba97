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
    """No key: the note that a user wants the account deleted. Nobody has what its hash is of."""


class KeyRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One login of one device. Nothing in it lets anybody log in."""

    hash: bytes
    user: UserId
    client: str
    """The client's own words about itself, cut short."""
    created_ms: int
    used_ms: int
    """Last use, to the hour or so: not every request writes."""
    checked_ms: int
    """When the user directory last confirmed this login."""
    sealed: bytes
    """The directory's proof, readable only with the host key."""
    kind: KeyKind = KeyKind.DEVICE
    name: str = ""
    """Of a browser: the name that its user signed in with. Of a password: what its user called it. Of a
    device that logged in with such a password: the same."""
    parent: bytes = b""
    """Hash of the generated password that a device logged in with; empty if it was the account's."""

    @property
    def id(self) -> str:
        """Names the key in lists and commands."""
        return self.hash.hex()[:ID_LENGTH]


class HostKeys(Protocol):
    """Where keys are kept. All methods raise ServiceUnavailable when that place is away.

    A key added is found, and a key removed is not, by every process once the method has returned;
    a backend that caches says for how long it may be late.
    """

    def add(self, record: KeyRecord) -> None:
        """Keep a new key; durable on return."""

    def find(self, key_hash: bytes) -> KeyRecord | None:
        """The key's record; None where it never was, was revoked or is too old. Every request asks."""

    def touch(self, record: KeyRecord) -> None:
        """Store `used_ms`, `checked_ms` and `sealed` of a key that still is there; never revives one."""

    def revoke(self, key_hash: bytes) -> bool:
        """Forget a key; False where there was none."""

    def revoke_all(self, user: UserId) -> int:
        """Forget all keys of a user; how many there were."""

    def list(self, user: UserId | None = None) -> Iterator[KeyRecord]:
        """The keys of one user or of all, oldest first."""


def new_key(user: UserId) -> str:
    """A key to hand out: 256 random bits, a dot, and the user's id; letters, digits, `-`, `_` and `.`."""
    return f"{secrets.token_urlsafe(KEY_BYTES)}.{user}"


def claimed_user(key: str) -> UserId | None:
    """The user that a key names; None for keys made before keys named one, and for what is no key.

    It is a claim and proves nothing: anybody can write such a text.
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
    """What a key is found by. A plain hash will do: nobody can guess 256 random bits, or 100."""
    return hashlib.sha256(_PREFIXES[kind] + key.encode()).digest()


def key_id(key: str) -> str:
    """The id of a host key: `KeyRecord.id` of its record."""
    return hash_of(key).hex()[:ID_LENGTH]


def seal(key: str, user: UserId, proof: bytes) -> bytes:
    """Encrypt `proof` under the host key and bind it to the user: AES-256-GCM, nonce in front."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + _cipher(key).encrypt(nonce, proof, user.encode())


def unseal(key: str, user: UserId, sealed: bytes) -> bytes | None:
    """The proof; None when it was not sealed with this key for this user."""
    try:
        return _cipher(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], user.encode())
    except (InvalidTag, ValueError):
        return None


def _cipher(key: str) -> AESGCM:
    return AESGCM(hashlib.sha256(b"ankisyncd seal\0" + key.encode()).digest())
