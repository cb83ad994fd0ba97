"""Limits how fast passwords can be tried: by name and network, by network, and by name alone.

The rules are in `LoginAttempts`; where the counts are kept is behind the port `Counts`.
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

from app.auth.users import normal_name
from app.auth.usersfile import UsersFile
from app.errors import RateLimited, ServiceUnavailable

CLOCK_SLACK_MS = 1000
LONGEST_MS = 24 * 60 * 60 * 1000
"""Every bucket is empty much earlier."""
_BUCKET_BYTES = 8
_PREFIXES = (64, 56, 48)
"""What an IPv6 customer may have as a whole: a home a /64 or /56, a company, a tunnel or a server a /48."""
_REGION_PREFIXES = {4: 16, 6: 32}

T = TypeVar("T")
State = dict[bytes, int]
"""Bucket -> the time (ms) at which it will be empty; each attempt adds the `pause_ms` of its limit."""


class Limit(msgspec.Struct, frozen=True):
    """So many attempts in a row, and then one in each pause; a pause without attempts gives one back."""

    burst: int
    pause_ms: int


class Limits(msgspec.Struct, frozen=True):
    """How many wrong passwords are verified. No limit ever makes anybody wait longer than its pause."""

    pair: tuple[Limit, ...] = (Limit(10, 20_000), Limit(20, 20_000), Limit(40, 20_000))
    """For one name: from one address (IPv6: a /64), from a /56, from a /48."""
    long: Limit = Limit(60, 90_000)
    """For one name from one address or /48, over a longer time: 960 in a day."""
    address: tuple[Limit, ...] = (Limit(100, 9_000), Limit(150, 6_000), Limit(200, 4_500))
    """For all names, from the same networks: a school may be behind one address."""
    name: Limit = Limit(20, 30_000)
    """For one name from anywhere. Beyond it attempts are delayed, and never refused."""
    delay_step_ms: int = 100
    """Each attempt beyond `name` makes the delay longer by this."""
    longest_delay_ms: int = 3_000

    @property
    def most_counted(self) -> int:
        """Attempts for one name that are counted at most; with one more the delay would not be longer."""
        return self.name.burst + self.longest_delay_ms // self.delay_step_ms


class Attempt(msgspec.Struct, frozen=True):
    """An attempt that was counted before its password is looked at."""

    place: bytes
    """Where the counts of its networks are kept."""
    name: bytes
    """Where the count of its name is kept."""
    pairs: dict[bytes, Limit]
    addresses: dict[bytes, Limit]
    delay_ms: int
    """How long the caller has to wait before it answers."""


class Counts(Protocol):
    """Where counts are kept, shared by all processes that do so."""

    def secret(self) -> bytes:
        """The key of the hashes that stand for names and addresses."""

    def change(self, key: bytes, now_ms: int, work: Callable[[State], T]) -> T:
        """Let `work` change the counts under `key`; its answer. `work` may run several times.

        Atomic over all processes. Counts are forgotten once the last of them is empty; a power cut may
        forget more. Raises: RateLimited when too many others change the same counts.
        """


class LoginAttempts:
    """Counts attempts as failed until they are shown to be good.

    So attempts made at the same time do not pass a limit together. Keeps neither names nor addresses in
    clear: people type passwords into the wrong field.
    """

    def __init__(self, counts: Counts, clock_ms: Callable[[], int], limits: Limits) -> None:
        self._counts, self._clock_ms, self._limits = counts, clock_ms, limits

    def admit(self, username: str, address: str) -> Attempt:
        """Count an attempt.

        Raises: RateLimited, also for a right password: an answer would make it a way to guess. A refused
        attempt is not counted, so a client that keeps asking gets in when the pause is over.
        """
        limits, secret, now_ms = self._limits, self._counts.secret(), self._clock_ms()
        networks = [network.encode() for network in networks_of(address)]
        widest, name = networks[-1], counted_name(username)
        pairs = {
            _bucket(secret, b"pair", network, name): limit
            for network, limit in zip(networks, limits.pair, strict=False)
        }
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
        """The password was right: forget all attempts of this name from these networks."""

        def forget(state: State) -> None:
            for bucket in attempt.pairs:
                state.pop(bucket, None)
            _give_back(state, attempt.addresses)

        self._take_back(attempt, forget)

    def withdraw(self, attempt: Attempt) -> None:
        """The password was not looked at (an outage): forget this attempt."""
        self._take_back(attempt, lambda state: _give_back(state, attempt.pairs | attempt.addresses))

    def _take_back(self, attempt: Attempt, change_place: Callable[[State], None]) -> None:
        now_ms = self._clock_ms()
        # A login must not fail because its count could not be taken back; it empties by itself.
        with suppress(ServiceUnavailable, RateLimited):
            self._counts.change(attempt.place, now_ms, change_place)
            name_limit = {attempt.name[:_BUCKET_BYTES]: self._limits.name}
            self._counts.change(attempt.name, now_ms, lambda state: _give_back(state, name_limit))

    def _delay_ms(self, name_key: bytes, now_ms: int) -> int:
        """Count an attempt for a name; how long it has to wait because of those before it."""
        limit, bucket, most = self._limits.name, name_key[:_BUCKET_BYTES], self._limits.most_counted
        step_ms = self._limits.delay_step_ms

        def count(state: State) -> int:
            _forget(state, {bucket: Limit(most, limit.pause_ms)}, now_ms)
            end_ms = state.get(bucket, now_ms)
            counted = -(-(end_ms - now_ms) // limit.pause_ms)
            if counted < most:
                state[bucket] = end_ms + limit.pause_ms
            return min(max(0, counted + 1 - limit.burst) * step_ms, self._limits.longest_delay_ms)

        try:
            return self._counts.change(name_key, now_ms, count)
        except RateLimited:  # many attempts for this name at this moment
            return self._limits.longest_delay_ms


class LocalCounts:
    """See `Counts`. Kept in the users' file; costs no wait for the disk."""

    def __init__(self, file: UsersFile) -> None:
        self._file = file
        self._secret: bytes | None = None

    def secret(self) -> bytes:
        if self._secret is None:
            ((self._secret,),) = self._file.read("SELECT value FROM secrets WHERE name = 'attempts'")
        return self._secret

    def change(self, key: bytes, now_ms: int, work: Callable[[State], T]) -> T:
        def transaction(connection: apsw.Connection) -> T:
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
    """Counts as bytes: MessagePack."""
    return msgspec.msgpack.encode(state)


def unpacked(stored: bytes) -> State:
    """What `packed` has packed."""
    return msgspec.msgpack.decode(stored, type=State)


def networks_of(address: str) -> tuple[str, ...]:
    """The networks that an address is counted with, the smallest first; one for IPv4."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # a server that knows no addresses counts all clients as one
        return ("",)
    if isinstance(parsed, ipaddress.IPv4Address):
        return (str(parsed),)
    return tuple(str(ipaddress.ip_network((parsed, prefix), strict=False)) for prefix in _PREFIXES)


def region_of(address: str) -> str:
    """A wide network around an address, to tell a flood from others; limits do not count by it."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    return str(ipaddress.ip_network((parsed, _REGION_PREFIXES[parsed.version]), strict=False))


def counted_name(username: str) -> bytes:
    """One spelling of a name for counting: a Cognito pool may take it in any case."""
    folded = unicodedata.normalize("NFC", normal_name(username).casefold())
    return folded.encode("utf-8", "surrogatepass")


def _hash(secret: bytes, *parts: bytes) -> bytes:
    """What is stored instead of names and addresses."""
    return hmac.digest(secret, b"\0".join(parts), hashlib.sha256)[:16]


def _bucket(secret: bytes, *parts: bytes) -> bytes:
    return _hash(secret, *parts)[:_BUCKET_BYTES]


def _forget(state: State, buckets: dict[bytes, Limit], now_ms: int) -> None:
    """Drop what is empty, and what can only come from a clock that was ahead: it would limit for as long."""
    for bucket, end_ms in list(state.items()):
        limit = buckets.get(bucket)
        longest_ms = limit.burst * limit.pause_ms + CLOCK_SLACK_MS if limit else LONGEST_MS
        if not now_ms < end_ms <= now_ms + longest_ms:
            del state[bucket]


def _count(state: State, buckets: dict[bytes, Limit], now_ms: int) -> int:
    """Count an attempt in all buckets, or in none; how long it must wait (ms), 0 when it was counted."""
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
