"""Passwords in, host keys out; host keys in, users out. The only door that the requests know.

Refuses to know where users and keys are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

import msgspec

from app.auth.attempts import LoginAttempts
from app.auth.hostkeys import HostKeys, KeyRecord, hash_of, new_key, seal, unseal
from app.auth.users import Identity, UserDirectory
from app.errors import AuthError, ServiceUnavailable
from storage.types import UserId

_TOUCH_AFTER_MS = 60 * 60 * 1000
_ASK_AGAIN_AFTER_MS = 15 * 1000
_CLIENT_LENGTH = 100
_LONGEST_INPUT = 4096
_OPENED_KEPT = 1000
_CONFIRMED_KEPT = 4000

_Confirmed = dict[bytes, tuple[UserId, int]]
"""Hash of a host key -> whose it is, and until when that need not be asked again."""


class Authenticator:
    """`login` for hostKey, `authenticate` for every other request."""

    def __init__(
        self,
        directory: UserDirectory,
        keys: HostKeys,
        attempts: LoginAttempts,
        clock_ms: Callable[[], int],
        revision: Callable[[], int] | None = None,
    ) -> None:
        """`revision` is another number whenever a user or a key may have changed, in any process.

        Without one every request asks.
        """
        self._directory, self._keys, self._attempts = directory, keys, attempts
        self._clock_ms = clock_ms
        self._revision = revision
        self._confirmed: tuple[int, _Confirmed] = (-1, {})
        self._touch_after_ms = directory.recheck_after_ms or _TOUCH_AFTER_MS
        self._asking: set[bytes] = set()
        self._opened: OrderedDict[tuple[bytes, bytes], bytes] = OrderedDict()
        self._directory_away_until_ms = 0

    def login(self, username: str, password: str, address: str, client: str = "") -> str:
        """Check the password, every time, and hand out a new key. Keys of other devices live on.

        Raises: AuthError, RateLimited, ServiceUnavailable.
        """
        attempt = self._attempts.admit(username, address)
        try:
            identity = self._verify(username, password)
        except ServiceUnavailable:
            self._attempts.withdraw(attempt)
            raise
        self._attempts.succeeded(attempt)
        key, now_ms = new_key(), self._clock_ms()
        sealed = seal(key, identity.user, identity.proof)
        client = client[:_CLIENT_LENGTH].encode("utf-8", "replace").decode()
        self._keys.add(KeyRecord(hash_of(key), identity.user, client, now_ms, now_ms, now_ms, sealed))
        return key

    def authenticate(self, key: str) -> UserId:
        """Whose key it is. Raises: AuthError, ServiceUnavailable."""
        try:
            key_hash = hash_of(key)
        except UnicodeEncodeError:
            raise AuthError("unknown host key") from None
        now_ms = self._clock_ms()
        if self._revision is None:
            return self._authenticate(key, key_hash, now_ms).user
        # Asked before the key is looked at: what changes after that is another revision.
        confirmed = self._confirmed_at(self._revision())
        user, until_ms = confirmed.get(key_hash, (None, 0))
        if user is None or now_ms >= until_ms:
            record = self._authenticate(key, key_hash, now_ms)
            user = record.user
            confirmed[key_hash] = user, record.used_ms + self._touch_after_ms
        return user

    def _confirmed_at(self, revision: int) -> _Confirmed:
        """The keys found good at this revision. Who waits meanwhile keeps to what was so at theirs."""
        known, confirmed = self._confirmed
        if revision != known or len(confirmed) >= _CONFIRMED_KEPT:
            confirmed = {}
            self._confirmed = revision, confirmed
        return confirmed

    def _authenticate(self, key: str, key_hash: bytes, now_ms: int) -> KeyRecord:
        record = self._keys.find(key_hash)
        if record is None:
            raise AuthError("unknown host key")
        if now_ms - record.checked_ms >= self._directory.recheck_after_ms:
            self._check(key, record, now_ms)
        return record

    def _verify(self, username: str, password: str) -> Identity:
        if len(username) > _LONGEST_INPUT or len(password) > _LONGEST_INPUT:
            raise AuthError("user name or password too long")
        try:
            (username + password).encode()
        except UnicodeEncodeError:
            raise AuthError("user name or password is no text") from None
        return self._directory.verify(username, password)

    def _check(self, key: str, record: KeyRecord, now_ms: int) -> None:
        """Ask the directory whether the login still stands; raises AuthError if it does not."""
        proof = self._proof_of(key, record)
        identity = self._confirm(Identity(record.user, proof), record, now_ms)
        if identity is not None and now_ms - record.used_ms >= self._touch_after_ms:
            sealed = record.sealed if identity.proof == proof else seal(key, record.user, identity.proof)
            touched = msgspec.structs.replace(record, used_ms=now_ms, checked_ms=now_ms, sealed=sealed)
            with suppress(ServiceUnavailable):  # a full disk must not keep people from downloading
                self._keys.touch(touched)

    def _proof_of(self, key: str, record: KeyRecord) -> bytes:
        """What the record seals; kept for the next requests: opening costs more than asking."""
        name = (record.hash, record.sealed)
        proof = self._opened.get(name)
        if proof is None:
            proof = unseal(key, record.user, record.sealed)
            if proof is None:
                raise AuthError("host key does not open its record")
            self._opened[name] = proof
            if len(self._opened) > _OPENED_KEPT:
                self._opened.popitem(last=False)
        return proof

    def _confirm(self, identity: Identity, record: KeyRecord, now_ms: int) -> Identity | None:
        """What the directory says; None when it was not asked because its last answer may serve.

        One request of a key asks, not all that come meanwhile, and none for a while after an outage
        was noticed: else each would wait for the directory's timeout.
        """
        directory = self._directory
        may_wait = now_ms - record.checked_ms < directory.recheck_after_ms + directory.outage_grace_ms
        if may_wait and (record.hash in self._asking or now_ms < self._directory_away_until_ms):
            return None
        self._asking.add(record.hash)
        try:
            confirmed = directory.confirm(identity)
        except ServiceUnavailable:
            self._directory_away_until_ms = now_ms + _ASK_AGAIN_AFTER_MS
            if may_wait:
                return None
            raise
        finally:
            self._asking.discard(record.hash)
        if confirmed is None:
            # Gone for good: a password that is changed back must not bring old keys back.
            self._keys.revoke(record.hash)
            raise AuthError("the login behind this host key no longer stands")
        return confirmed
