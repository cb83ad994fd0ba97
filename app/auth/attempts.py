"""Limits the rate of login attempts: per name and network, per network, and per name.

`LoginAttempts` has the rules, and is called by `authenticator`; the counts are stored behind the port
`Counts`.

Each limit is a leaky bucket, stored as the time when it will be empty: each attempt moves that time by
`pause_ms`.

    now            end_ms                 attempts counted = (end_ms - now) / pause_ms
    |--|--|--|--|--|                      the next one is allowed while fewer than `burst` are counted
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

import apsw
import msgspec

from app.auth.local.usersfile import UsersFile
from app.auth.users import normal_name
from app.errors import RateLimited, ServiceUnavailable

CLOCK_SLACK_MS = 1000
LONGEST_MS = 24 * 60 * 60 * 1000
"""All buckets are empty after less than this."""
_BUCKET_BYTES = 8
_PREFIXES = (64, 56, 48)
"""The IPv6 networks that one customer may have: a /64 or /56 at home, a /48 in a company or by a tunnel."""
_REGION_PREFIXES = {4: 16, 6: 32}

T = TypeVar("T")
State = dict[bytes, int]
"""Bucket -> the time (ms) when it will be empty."""


class Limit(msgspec.Struct, frozen=True):
    """Up to `burst` attempts in a row, then one per `pause_ms`; each unused pause allows one more."""

    burst: int
    pause_ms: int


class Limits(msgspec.Struct, frozen=True):
    """The limits of wrong passwords. No limit makes a user wait longer than its pause."""

    pair: tuple[Limit, ...] = (Limit(10, 20_000), Limit(20, 20_000), Limit(40, 20_000))
    """For one name: from one address (IPv6: a /64), from a /56, from a /48."""
    long: Limit = Limit(60, 90_000)
    """For one name from one address or /48, over a longer time: 960 per day."""
    address: tuple[Limit, ...] = (Limit(100, 9_000), Limit(150, 6_000), Limit(200, 4_500))
    """For all names from these networks; a whole school may share one address."""
    name: Limit = Limit(20, 30_000)
    """For one name from anywhere. Further attempts are delayed, but not rejected."""
    delay_step_ms: int = 100
    """Each attempt over the limit `name` adds this to the delay."""
    longest_delay_ms: int = 3_000

    @property
    def most_counted(self) -> int:
        """Attempts for one name that are counted at most, as more would not make the delay longer."""
        return self.name.burst + self.longest_delay_ms // self.delay_step_ms


class Attempt(msgspec.Struct, frozen=True):
    """An attempt, which is counted before its password is checked."""

    place: bytes
    """The key of the counts of its networks."""
    name: bytes
    """The key of the count of its name."""
    pairs: dict[bytes, Limit]
    addresses: dict[bytes, Limit]
    delay_ms: int
    """How long the caller must wait before it answers."""


class Counts(Protocol):
    """The store of counts, shared by processes."""

    def secret(self) -> bytes:
        """The secret key of the hashes of names and addresses."""

    def change(self, key: bytes, now_ms: int, work: Callable[[State], T]) -> T:
        """Change the counts under `key` with `work`, which may be called several times; returns its result.

        Atomic across processes. Counts are deleted when all of them are empty; a power cut may lose more.
        Raises: RateLimited if too many other changes of the same counts are faster.
        """


class LoginAttempts:
    """Counts each attempt as failed until its password was found to be right.

    So a limit also holds for attempts made at the same time. Names and addresses are stored as keyed
    hashes, since users sometimes type a password as the name.
    """

    def __init__(self, counts: Counts, clock_ms: Callable[[], int], limits: Limits) -> None:
        self._counts, self._clock_ms, self._limits = counts, clock_ms, limits

    def admit(self, username: str, address: str) -> Attempt:
        """Count an attempt.

        Raises: RateLimited, whether the password is right or not, since the difference would help guessing. A
        rejected attempt is not counted, so a client that keeps trying is let in after the pause.
        """
        limits, secret, now_ms = self._limits, self._counts.secret(), self._clock_ms()
        networks = [network.encode() for network in networks_of(address)]
        widest, name = networks[-1], counted_name(username)
        pairs = {
            _bucket(secret, b"pair", network, name): limit
            for network, limit in zip(networks, limits.pair, strict=False)
        }
        # A second, slower limit for the same pair.
        pairs[_bucket(secret, b"long", widest, name)] = limits.long
        addresses = {
            _bucket(secret, b"address", network): limit
            for network, limit in zip(networks, limits.address, strict=False)
        }
        place = _hash(secret, b"place", widest)

        def count(state: State) -> int:
            return _count(state, pairs | addresses, now_ms)

        if wait_ms := self._counts.change(place, now_ms, count):
            raise RateLimited("too many wrong passwords from this address", -(-wait_ms // 1000))
        name_key = _hash(secret, b"name", name)
        return Attempt(place, name_key, pairs, addresses, self._delay_ms(name_key, now_ms))

    def succeeded(self, attempt: Attempt) -> None:
        """The password was right: delete the counts of this name from these networks."""

        def forget(state: State) -> None:
            # Of this name only: the counts of the networks lose just this attempt.
            for bucket in attempt.pairs:
                state.pop(bucket, None)
            _give_back(state, attempt.addresses)

        self._take_back(attempt, forget)

    def withdraw(self, attempt: Attempt) -> None:
        """The password could not be checked (an outage): uncount this attempt."""
        self._take_back(attempt, lambda state: _give_back(state, attempt.pairs | attempt.addresses))

    def _take_back(self, attempt: Attempt, change_place: Callable[[State], None]) -> None:
        now_ms = self._clock_ms()
        # A login must not fail because its count could not be changed, as counts decrease by themselves.
        with suppress(ServiceUnavailable, RateLimited):
            self._counts.change(attempt.place, now_ms, change_place)
            name_limit = {attempt.name[:_BUCKET_BYTES]: self._limits.name}
            self._counts.change(attempt.name, now_ms, lambda state: _give_back(state, name_limit))

    def _delay_ms(self, name_key: bytes, now_ms: int) -> int:
        """Count an attempt for a name, and return its delay, which depends on earlier attempts."""
        limit, bucket, most = self._limits.name, name_key[:_BUCKET_BYTES], self._limits.most_counted
        step_ms = self._limits.delay_step_ms

        def count(state: State) -> int:
            _forget(state, {bucket: Limit(most, limit.pause_ms)}, now_ms)
            end_ms = state.get(bucket, now_ms)
            # Attempts in the bucket, rounded up.
            counted = -(-(end_ms - now_ms) // limit.pause_ms)
            if counted < most:
                state[bucket] = end_ms + limit.pause_ms
            return min(max(0, counted + 1 - limit.burst) * step_ms, self._limits.longest_delay_ms)

        try:
            return self._counts.change(name_key, now_ms, count)
        except RateLimited:  # many attempts for this name at this moment
            return self._limits.longest_delay_ms


class LocalCounts:
    """`Counts` in the users' file; a change does not wait for the disk."""

    def __init__(self, file: UsersFile) -> None:
        self._file = file
        self._secret: bytes | None = None

    def secret(self) -> bytes:
        if self._secret is None:
            ((self._secret,),) = self._file.read("SELECT value FROM secrets WHERE name = 'attempts'")
        return self._secret

    def change(self, key: bytes, now_ms: int, work: Callable[[State], T]) -> T:
        def transaction(connection: apsw.Connection) -> T:
            # Empty ones, and those of a clock that was far ahead.
            over = "DELETE FROM counts WHERE ends_ms <= ? OR ends_ms > ?"
            connection.execute(over, (now_ms, now_ms + LONGEST_MS))
            row = connection.execute("SELECT state FROM counts WHERE key = ?", (key,)).fetchone()
            before = unpacked(row[0]) if row else {}
            state = dict(before)
            answer = work(state)
            if state != before:
                values = (key, packed(state), max(state.values(), default=now_ms))
                connection.execute("INSERT OR REPLACE INTO counts VALUES (?, ?, ?)", values)
            return answer

        return self._file.write(transaction, durable=False)


def packed(state: State) -> bytes:
    """Counts as MessagePack."""
    return msgspec.msgpack.encode(state)


def unpacked(stored: bytes) -> State:
    """The counts in a result of `packed`."""
    return msgspec.msgpack.decode(stored, type=State)


def networks_of(address: str) -> tuple[str, ...]:
    """The networks for which an address is counted, the smallest first; only the address itself for IPv4."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # without addresses all clients count as one
        return ("",)
    if isinstance(parsed, ipaddress.IPv4Address):
        return (str(parsed),)
    return tuple(str(ipaddress.ip_network((parsed, prefix), strict=False)) for prefix in _PREFIXES)


def region_of(address: str) -> str:
    """A wide network around an address, for the queue of logins (`turns`); limits do not use it."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    return str(ipaddress.ip_network((parsed, _REGION_PREFIXES[parsed.version]), strict=False))


def counted_name(username: str) -> bytes:
    """The name in one spelling for counting, as a Cognito pool may ignore case."""
    folded = unicodedata.normalize("NFC", normal_name(username).casefold())
    return folded.encode("utf-8", "surrogatepass")


def _hash(secret: bytes, *parts: bytes) -> bytes:
    """A keyed hash, stored in place of names and addresses."""
    return hmac.digest(secret, b"\0".join(parts), hashlib.sha256)[:16]


def _bucket(secret: bytes, *parts: bytes) -> bytes:
    return _hash(secret, *parts)[:_BUCKET_BYTES]


def _forget(state: State, buckets: dict[bytes, Limit], now_ms: int) -> None:
    """Delete buckets that are empty, or that end too late and so come from a clock that was ahead."""
    for bucket, end_ms in list(state.items()):
        limit = buckets.get(bucket)
        # A bucket never ends later than after `burst` pauses.
        longest_ms = limit.burst * limit.pause_ms + CLOCK_SLACK_MS if limit else LONGEST_MS
        if not now_ms < end_ms <= now_ms + longest_ms:
            del state[bucket]


def _count(state: State, buckets: dict[bytes, Limit], now_ms: int) -> int:
    """Count an attempt in all buckets and return 0, or count nothing and return the time to wait (ms)."""
    _forget(state, buckets, now_ms)
    wait_ms = max(
        state.get(bucket, now_ms) - now_ms - (limit.burst - 1) * limit.pause_ms
        for bucket, limit in buckets.items()
    )
    if wait_ms > 0:
        return wait_ms
    for bucket, limit in buckets.items():
        state[bucket] = state.get(bucket, now_ms) + limit.pause_ms
    return 0


def _give_back(state: State, buckets: dict[bytes, Limit]) -> None:
    for bucket, limit in buckets.items():
        if bucket in state:
            state[bucket] -= limit.pause_ms
