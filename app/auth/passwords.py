"""Hashes passwords (argon2id), and verifies them (argon2id and PBKDF2). Used by `local`.

Hashes are PHC strings. Errors and logs never contain a password.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import argon2

from storage.types import Offload

DUMMY_ARGON2 = (
    "$argon2id$v=19$m=32768,t=3,p=1$YW5raXN5bmNkIG5vYm9keQ$bm9ib2R5J3MgcGFzc3dvcmQsIG5vdCBhIGhhc2g0MzI"
)
"""Verified if the user has no hash, at the same cost; no password matches it."""

_HASHER = argon2.PasswordHasher(time_cost=3, memory_cost=32 * 1024, parallelism=1)
"""About 55 ms of one core and 32 MiB; immutable."""

_PBKDF2_DIGESTS = {"pbkdf2": "sha1", "pbkdf2-sha256": "sha256", "pbkdf2-sha512": "sha512"}
_MAX_ITERATIONS = 10_000_000


class Passwords:
    """Hashes and verifies off the event loop; `app.auth.login_queue` limits the parallel calls."""

    def __init__(self, offload: Offload[Any], *, verify: Callable[[str, str], bool] | None = None) -> None:
        self._offload = offload
        self._verify = verify or verify_hash

    def hash(self, password: str) -> str:
        """A new, salted argon2id hash."""
        hashed: str = self._offload(lambda: _HASHER.hash(normal_password(password)))
        return hashed

    def verify(self, password: str, hashes: Sequence[str]) -> tuple[bool, ...]:
        """For each of `hashes` whether the password matches; all are verified, to take constant time."""
        answers: tuple[bool, ...] = self._offload(
            lambda: tuple(self._verify(text, password) for text in hashes)
        )
        return answers


def normal_password(password: str) -> str:
    """The password in Unicode normal form C (RFC 8265), in which passwords are compared, like names."""
    return unicodedata.normalize("NFC", password)


def verify_hash(text: str, password: str) -> bool:
    """Whether `password` matches the PHC hash `text`. Raises: ValueError for an unknown kind of hash."""
    if text.startswith("$argon2id$"):
        try:
            return _HASHER.verify(text, normal_password(password))
        except argon2.exceptions.VerificationError:
            return False
    digest, iterations, salt, expected = _read_pbkdf2(text)
    # Not normalised, as the hash was made by another program from the text as typed.
    found = hashlib.pbkdf2_hmac(digest, password.encode(), salt, iterations, len(expected))
    return hmac.compare_digest(found, expected)


def check_hash(text: str) -> None:
    """Raises: ValueError if `verify_hash` cannot verify this hash; the message does not contain it."""
    if text.startswith("$argon2id$"):
        try:
            argon2.extract_parameters(text)
        except argon2.exceptions.InvalidHashError:
            raise ValueError("not a valid argon2id hash") from None
    else:
        _read_pbkdf2(text)


def _read_pbkdf2(text: str) -> tuple[str, int, bytes, bytes]:
    """`$pbkdf2-sha256$i=600000,l=32$salt$hash`: digest, iterations, salt, hash.

    Source: the official server's manual ("hashed passwords") and the PHC string format.
    """
    fields = text.split("$")
    if len(fields) != 5 or fields[0] or fields[1] not in _PBKDF2_DIGESTS:
        raise ValueError("not a $pbkdf2-sha256$ or $argon2id$ hash")
    try:
        # Parameters as `i=600000,l=32`.
        given = dict(part.split("=", 1) for part in fields[2].split(","))
        iterations, salt, expected = int(given["i"]), _from_base64(fields[3]), _from_base64(fields[4])
        length = int(given.get("l", len(expected)))
    except (KeyError, ValueError):
        raise ValueError("not a valid PBKDF2 hash") from None
    if length != len(expected) or length < 10 or not 1 <= iterations <= _MAX_ITERATIONS:
        raise ValueError("not a valid PBKDF2 hash")
    return _PBKDF2_DIGESTS[fields[1]], iterations, salt, expected


def _from_base64(text: str) -> bytes:
    """Decode base64 without padding, as in PHC strings."""
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
