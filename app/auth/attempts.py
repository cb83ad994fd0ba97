"""Counts login attempts, so that passwords cannot be tried out; shared by all processes.

Refuses to lock a user out: limits hold for an address. Stores neither names nor addresses in clear,
for people type passwords into the wrong field.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable
from typing import Any, Protocol

import apsw
import msgspec

from app.auth.users import normal_name
from app.auth.usersfile import UsersFile
from app.errors import RateLimited

_CLOCK_SLACK_MS = 1000


class Limits(msgspec.Struct, frozen=True):
    """How many wrong passwords are listened to in any `window_ms`."""

    pair: int = 10
    """For one name from one address."""
    address: int = 100
    """For all names from one address: a school may sit behind one."""
    window_ms: int = 15 * 60 * 1000


class Attempt(msgspec.Struct, frozen=True):
    """A place in the count, taken before the password is looked at."""

    pair: bytes
    """Name and address."""
    address: bytes
    id: int = 0


class LoginAttempts(Protocol):
    """All methods are atomic over all processes."""

    def admit(self, username: str, address: str) -> Attempt:
        """Count an attempt as failed until shown otherwise.

        Raises: RateLimited, also for a right password: an answer would make it a way to guess.
        A refused attempt is not counted, so a client that keeps asking gets in when the time is up.
        """

    def succeeded(self, attempt: Attempt) -> None:
        """The password was right: forget all attempts of this name from this address."""

    def withdraw(self, attempt: Attempt) -> None:
        """The password was not looked at (an outage): forget this attempt."""


class LocalLoginAttempts:
    """Counted in the users' file. A power cut may forget attempts; that costs no write to disk."""

    def __init__(self, file: UsersFile, clock_ms: Callable[[], int], limits: Limits) -> None:
        self._file, self._clock_ms, self._limits = file, clock_ms, limits

    def admit(self, username: str, address: str) -> Attempt:
        place = network_of(address).encode()
        name = normal_name(username).encode("utf-8", "surrogatepass")
        now_ms = self._clock_ms()

        def count(connection: apsw.Connection) -> Attempt | int:
            secret = _one(connection, "SELECT value FROM secrets WHERE name = 'attempts'", ())
            pair, origin = bucket_of(secret, b"pair", place, name), bucket_of(secret, b"address", place)
            since_ms = now_ms - self._limits.window_ms
            connection.execute(
                "DELETE FROM attempts WHERE at_ms <= ? OR at_ms > ?", (since_ms, now_ms + _CLOCK_SLACK_MS)
            )
            oldest = (
                _nth_last(connection, "pair", pair, self._limits.pair),
                _nth_last(connection, "address", origin, self._limits.address),
            )
            if oldest != (None, None):
                return max(at_ms for at_ms in oldest if at_ms is not None) - since_ms
            connection.execute(
                "INSERT INTO attempts (pair, address, at_ms) VALUES (?, ?, ?)", (pair, origin, now_ms)
            )
            return Attempt(pair, origin, connection.last_insert_rowid())

        answer = self._file.write(count, durable=False)
        if isinstance(answer, int):
            raise RateLimited("too many wrong passwords from this address", max(1, -(-answer // 1000)))
        return answer

    def succeeded(self, attempt: Attempt) -> None:
        self._delete("DELETE FROM attempts WHERE pair = ?", (attempt.pair,))

    def withdraw(self, attempt: Attempt) -> None:
        self._delete("DELETE FROM attempts WHERE id = ?", (attempt.id,))

    def _delete(self, sql: str, bindings: tuple[Any, ...]) -> None:
        self._file.write(lambda connection: connection.execute(sql, bindings) and None, durable=False)


def network_of(address: str) -> str:
    """What counts as one address: an IPv6 customer has a whole /64 to choose from."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def bucket_of(secret: bytes, *parts: bytes) -> bytes:
    """What is stored instead of names and addresses."""
    return hmac.digest(secret, b"\0".join(parts), hashlib.sha256)[:16]


def _nth_last(connection: apsw.Connection, column: str, bucket: bytes, limit: int) -> int | None:
    """The time of the attempt that must leave the window before another one fits in."""
    sql = f"SELECT at_ms FROM attempts WHERE {column} = ? ORDER BY at_ms DESC LIMIT 1 OFFSET ?"  # noqa: S608 - a fixed word
    at_ms: int | None = _one(connection, sql, (bucket, limit - 1))
    return at_ms


def _one(connection: apsw.Connection, sql: str, bindings: tuple[Any, ...]) -> Any:
    row = connection.execute(sql, bindings).fetchone()
    return row[0] if row else None
