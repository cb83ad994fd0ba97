"""Logs users in (password to host key), and authenticates requests (host key to user).

`app.http` calls `Authenticator` for every request. Users and keys are behind the ports
`app.auth.users.UserDirectory` and `app.auth.hostkeys.HostKeys`.
"""

from __future__ import annotations

import hmac
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from app.auth.attempts import LoginAttempts, counted_name, region_of
from app.auth.devicepasswords import key_of, new_device_password
from app.auth.hostkeys import HostKeys, KeyKind, KeyRecord, claimed_user, hash_of, new_key, seal, unseal
from app.auth.login_queue import LoginQueue
from app.auth.users import CannotConfirm, Identity, UserDirectory
from app.errors import AppError, AuthError, ServiceUnavailable
from storage.types import UserId

_LOG: Final = logging.getLogger("ankisyncd")
_TOUCH_AFTER_MS = 60 * 60 * 1000
_ASK_AGAIN_AFTER_MS = 15 * 1000
_PATIENCE_S = 1.0
"""How long a request waits for the directory if the last answer may still be used."""
_LONGEST_WAIT_S = 20.0
"""How long a request waits otherwise; clients give up after 30 s."""
_SESSION_MS = 30 * 1000
"""How long a running sync needs no read of its key; a revocation takes effect that late."""
_SKEW_MS = 5 * 1000
_CLIENT_LENGTH = 100
_LONGEST_INPUT = 4096
_OPENED_KEPT = 1000
_CONFIRMED_KEPT = 4000
_PUT_OFF_KEPT = 4000

_Confirmed = dict[bytes, tuple[UserId, int]]
"""Hash of a host key -> (its user, until when it need not be checked again)."""


class KeyProof(msgspec.Struct, frozen=True):
    """The result of checking a host key. A running sync stores hash and time in its session."""

    user: UserId
    key_hash: bytes
    until_ms: int
    """Until this time requests of a sync that was started with this key need no other check; 0: never."""


class Admission:
    """The host key of a request, not checked yet; `prove` must be called before user data are used."""

    __slots__ = ("_authenticator", "_key", "_proof", "key_hash", "user")

    def __init__(
        self, authenticator: Authenticator, key: str, user: UserId, key_hash: bytes, proof: KeyProof | None
    ) -> None:
        self._authenticator, self._key, self._proof = authenticator, key, proof
        self.user, self.key_hash = user, key_hash
        """The user in the key; unchecked until `prove` has returned."""

    @property
    def is_proven(self) -> bool:
        """Whether `prove` has returned."""
        return self._proof is not None

    def prove(self, session_key_hash: bytes = b"", session_until_ms: int = 0) -> KeyProof:
        """Check the key: by the data in the user's session if they fit, without any call; else by its record.

        Raises: AuthError, ServiceUnavailable.
        """
        if self._proof is None:
            session = KeyProof(self.user, session_key_hash, session_until_ms)
            self._proof = self._authenticator.prove_by_session(self._key, self.key_hash, session)
        return self._proof


class _Login(msgspec.Struct, frozen=True):
    """A password that was right; of a generated one also its own record."""

    identity: Identity
    password: KeyRecord | None = None


class _Check:
    """A call to the directory that is in progress."""

    __slots__ = ("done", "error", "record")

    def __init__(self, record: KeyRecord) -> None:
        self.done = threading.Event()
        self.error: Exception | None = None
        self.record = record
        """The record after the check."""


def in_thread(work: Callable[[], None]) -> None:
    """Run a function in a thread; in a worker, where gevent has patched threads, in a greenlet."""
    threading.Thread(target=work, daemon=True, name="ankisyncd-aside").start()


class Authenticator:
    """`login` for `hostKey`; `authenticate`, or `admit` in a running sync, for all other requests."""

    def __init__(  # noqa: PLR0913 - by name
        self,
        directory: UserDirectory,
        keys: HostKeys,
        attempts: LoginAttempts,
        clock_ms: Callable[[], int],
        revision: Callable[[], int] | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        start_thread: Callable[[Callable[[], None]], None] = in_thread,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """`revision` returns another number after each change of users or keys, by any process.

        Without it every request reads its key from the store.
        """
        self._directory, self._keys, self._attempts = directory, keys, attempts
        self._clock_ms, self._sleep, self._start_thread = clock_ms, sleep, start_thread
        self._patience_s = patience_s
        self._queue = LoginQueue(directory.verify_at_once)
        self._revision = revision
        self._confirmed: tuple[int, _Confirmed] = (-1, {})
        self._touch_after_ms = directory.recheck_after_ms or _TOUCH_AFTER_MS
        self._checks: dict[bytes, _Check] = {}
        self._opened: OrderedDict[tuple[bytes, bytes], bytes] = OrderedDict()
        # The directory is not called before this time: for all keys, and for single ones.
        self._directory_away_until_ms = 0
        self._put_off_until_ms: dict[bytes, int] = {}
        self._warn_again_ms = 0

    def login(self, username: str, password: str, address: str, client: str = "") -> str:
        """Check the password, every time, and hand out a new host key. Keys of other devices live on.

        Also takes a password that was generated for a device. Raises: AuthError, RateLimited,
        ServiceUnavailable.
        """
        login = self._checked(username, password, address, takes_generated=True)
        key, parent = new_key(login.identity.user), login.password
        name, parent_hash = (parent.name, parent.hash) if parent else ("", b"")
        self._add_key(key, KeyKind.DEVICE, login.identity, client, name=name, parent=parent_hash)
        return key

    def sign_in(self, username: str, password: str, address: str, client: str) -> str:
        """Check the account's password under the same limits, and begin a session of a browser: its key.

        Raises: AuthError, RateLimited, ServiceUnavailable.
        """
        login = self._checked(username, password, address, takes_generated=False)
        key = new_key(login.identity.user)
        self._add_key(key, KeyKind.BROWSER, login.identity, client, name=username)
        return key

    def find_session(self, key: str) -> KeyRecord | None:
        """The session of a browser that has this key, if it still stands. Raises: ServiceUnavailable."""
        with suppress(AuthError):
            return self._authenticate(key, _hash_of(key, KeyKind.BROWSER), self._clock_ms())
        return None

    def add_device_password(self, session_key: str, name: str) -> str:
        """Make a password for a device of the user whose session this is: to be shown once.

        It rests on the same login as the session. Raises: AuthError, ServiceUnavailable.
        """
        now_ms = self._clock_ms()
        session = self._authenticate(session_key, _hash_of(session_key, KeyKind.BROWSER), now_ms)
        identity = Identity(session.user, self._proof_of(session_key, session))
        password = new_device_password()
        key = key_of(session.name, password)
        assert key is not None
        self._add_key(key, KeyKind.PASSWORD, identity, "", name=name)
        return password

    def _checked(self, username: str, password: str, address: str, *, takes_generated: bool) -> _Login:
        refusal: AuthError | None = None
        # Counted within the turn too: in a flood, those that wait cost no write.
        with self._queue.place((("name", counted_name(username)[:64]), ("region", region_of(address)))):
            attempt = self._attempts.admit(username, address)
            try:
                login = self._verify(username, password, takes_generated=takes_generated)
                self._attempts.succeeded(attempt)
            except ServiceUnavailable:
                self._attempts.withdraw(attempt)
                raise
            except AuthError as exc:
                refusal = exc
        # Outside of the queue: a delayed attempt holds no place.
        if attempt.delay_ms:
            self._sleep(attempt.delay_ms / 1000)
        if refusal is not None:
            raise refusal
        return login

    def _add_key(  # noqa: PLR0913 - the fields of a record
        self, key: str, kind: KeyKind, identity: Identity, client: str, *, name: str, parent: bytes = b""
    ) -> None:
        now_ms, sealed = self._clock_ms(), seal(key, identity.user, identity.proof)
        client = client[:_CLIENT_LENGTH].encode("utf-8", "replace").decode()
        self._keys.add(
            KeyRecord(
                hash_of(key, kind), identity.user, client, now_ms, now_ms, now_ms, sealed, kind, name, parent
            )
        )

    def try_login(self, username: str, password: str, address: str | None = None) -> UserId:
        """Check a password for the operator: nothing is counted, and no key is handed out.

        With an address it is refused as a login from there would be now.
        Raises: AuthError, RateLimited, ServiceUnavailable.
        """
        if address is not None:
            self._attempts.withdraw(self._attempts.admit(username, address))
        return self._verify(username, password, takes_generated=True).identity.user

    def knows(self, username: str) -> bool | None:
        """Whether there is a user of that name; None if that cannot be told."""
        return self._directory.knows(username)

    def authenticate(self, key: str) -> UserId:
        """The user of a key. Raises: AuthError, ServiceUnavailable."""
        return self._prove(key, _hash_of(key)).user

    def admit(self, key: str) -> Admission:
        """The admission of a key, whose `prove` must be called later.

        A key without a user id, and any key if checking is fast (with a `revision`), is checked at once.
        Raises: AuthError, ServiceUnavailable.
        """
        key_hash = _hash_of(key)
        if self._revision is None and (user := claimed_user(key)) is not None:
            return Admission(self, key, user, key_hash, None)
        proof = self._prove(key, key_hash)
        return Admission(self, key, proof.user, key_hash, proof)

    def prove_by_session(self, key: str, key_hash: bytes, session: KeyProof) -> KeyProof:
        """See `Admission.prove`; `session` has the data from the session of the user `session.user`."""
        now_ms = self._clock_ms()
        # A later time was written by a machine whose clock differs too much from this one's.
        is_recent = now_ms < session.until_ms <= now_ms + _SESSION_MS + _SKEW_MS
        if is_recent and hmac.compare_digest(session.key_hash, key_hash):
            return session
        proof = self._prove(key, key_hash)
        if proof.user != session.user:
            raise AuthError("the host key names another user than its record")
        return proof

    def _prove(self, key: str, key_hash: bytes) -> KeyProof:
        now_ms = self._clock_ms()
        if self._revision is None:
            record = self._authenticate(key, key_hash, now_ms)
            return KeyProof(record.user, key_hash, self._session_until_ms(record, now_ms))
        # The revision is read before the key: a change after that leads to another revision.
        confirmed = self._confirmed_at(self._revision())
        user, until_ms = confirmed.get(key_hash, (None, 0))
        if user is None or now_ms >= until_ms:
            record = self._authenticate(key, key_hash, now_ms)
            user = record.user
            confirmed[key_hash] = user, record.used_ms + self._touch_after_ms
        return KeyProof(user, key_hash, 0)

    def _session_until_ms(self, record: KeyRecord, now_ms: int) -> int:
        until_ms = now_ms + _SESSION_MS
        if self._directory.outage_grace_ms:
            until_ms = min(until_ms, record.checked_ms + self._directory.recheck_after_ms)
        return until_ms

    def _confirmed_at(self, revision: int) -> _Confirmed:
        """The cache of keys that were found valid at this revision.

        A new revision gets a new dict; requests that began with an older revision keep using theirs.
        """
        known, confirmed = self._confirmed
        if revision != known or len(confirmed) >= _CONFIRMED_KEPT:
            confirmed = {}
            self._confirmed = revision, confirmed
        return confirmed

    def _verify(self, username: str, password: str, *, takes_generated: bool) -> _Login:
        if len(username) > _LONGEST_INPUT or len(password) > _LONGEST_INPUT:
            raise AuthError("user name or password too long")
        try:
            (username + password).encode()
        except UnicodeEncodeError:
            raise AuthError("user name or password is no text") from None
        if takes_generated and (login := self._find_generated(username, password)) is not None:
            return login
        return _Login(self._directory.verify(username, password))

    def _find_generated(self, username: str, password: str) -> _Login | None:
        """The login by a generated password; None if there is no such one, or its account's has ended."""
        key = key_of(username, password)
        if key is None or (record := self._keys.find(hash_of(key, KeyKind.PASSWORD))) is None:
            return None
        with suppress(AuthError):
            record = self._ask(key, record, self._proof_of(key, record), self._clock_ms())
            return _Login(Identity(record.user, self._proof_of(key, record)), record)
        return None

    def _authenticate(self, key: str, key_hash: bytes, now_ms: int) -> KeyRecord:
        """The record of a key whose login the directory has confirmed, now or recently enough."""
        record = self._keys.find(key_hash)
        if record is None:
            raise AuthError("unknown host key")
        since_ms = now_ms - record.checked_ms
        # Confirmed recently enough.
        if since_ms < self._directory.recheck_after_ms:
            return record
        proof = self._proof_of(key, record)
        # The local directory answers at once.
        if not self._directory.outage_grace_ms:
            return self._ask(key, record, proof, now_ms)
        # As long as the last answer may be used, only one request of a key calls the directory at a time, and
        # none for a while after an outage: otherwise each of them would wait for it.
        may_serve = since_ms < self._directory.recheck_after_ms + self._directory.outage_grace_ms
        check = self._checks.get(key_hash)
        if may_serve and (check is not None or now_ms < self._ask_again_ms(key_hash)):
            return record
        check = check or self._ask_beside(key, record, proof, now_ms)
        error: Exception | None
        if check.done.wait(self._patience_s if may_serve else _LONGEST_WAIT_S):
            error = check.error
        else:
            error = ServiceUnavailable("the user directory does not answer")
            self._put_off(key_hash, error, now_ms)
        if error is None:
            return check.record
        # An outage of the directory: the last answer still counts.
        if may_serve and isinstance(error, ServiceUnavailable):
            return record
        raise error

    def _proof_of(self, key: str, record: KeyRecord) -> bytes:
        """The decrypted proof of a record; cached, as decrypting costs more than the directory's check."""
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

    def _ask_again_ms(self, key_hash: bytes) -> int:
        return max(self._directory_away_until_ms, self._put_off_until_ms.get(key_hash, 0))

    def _ask_beside(self, key: str, record: KeyRecord, proof: bytes, now_ms: int) -> _Check:
        """Call the directory in a thread of its own, so that a request can stop waiting for it."""
        check = self._checks[record.hash] = _Check(record)

        def ask() -> None:
            try:
                check.record = self._ask(key, record, proof, now_ms)
            except Exception as exc:
                check.error = exc
                if not isinstance(exc, AppError):
                    raise
            finally:
                del self._checks[record.hash]
                check.done.set()

        self._start_thread(ask)
        return check

    def _ask(self, key: str, record: KeyRecord, proof: bytes, now_ms: int) -> KeyRecord:
        """Let the directory confirm the login, and return the record after that.

        Raises: AuthError if the login is not valid any more, which ends the key; ServiceUnavailable.
        """
        try:
            identity = self._directory.confirm(Identity(record.user, proof))
        except ServiceUnavailable as exc:
            self._put_off(record.hash, exc, now_ms)
            raise
        if identity is None:
            # The key is deleted, so that it stays invalid even if the password is changed back. If that fails
            # now, the request is rejected all the same, and the next one tries again.
            with suppress(ServiceUnavailable):
                self._keys.revoke(record.hash)
            raise AuthError("the login behind this host key no longer stands")
        # Not with every request, as it is a write.
        if now_ms - record.used_ms >= self._touch_after_ms:
            sealed = record.sealed if identity.proof == proof else seal(key, record.user, identity.proof)
            record = msgspec.structs.replace(record, used_ms=now_ms, checked_ms=now_ms, sealed=sealed)
            with suppress(ServiceUnavailable):  # downloads must work with a full disk
                self._keys.touch(record)
        return record

    def _put_off(self, key_hash: bytes, error: ServiceUnavailable, now_ms: int) -> None:
        until_ms = now_ms + _ASK_AGAIN_AFTER_MS
        if isinstance(error, CannotConfirm):
            if len(self._put_off_until_ms) >= _PUT_OFF_KEPT:
                self._put_off_until_ms.clear()
            self._put_off_until_ms[key_hash] = until_ms
        else:
            self._directory_away_until_ms = until_ms
        # Requests still succeed, so this log line is the only sign for the operator.
        if now_ms >= self._warn_again_ms:
            self._warn_again_ms = until_ms
            _LOG.warning("logins cannot be confirmed, their host keys go on for a while: %s", error)


def _hash_of(key: str, kind: KeyKind = KeyKind.DEVICE) -> bytes:
    try:
        return hash_of(key, kind)
    except UnicodeEncodeError:
        raise AuthError("unknown host key") from None
