"""Login and admission: passwords in, host keys out; host keys in, users out.

The blueprints call `Authenticator` for every request. Users and keys are kept behind the ports
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
from app.auth.turns import Turns
from app.auth.users import CannotConfirm, Identity, UserDirectory
from app.errors import AppError, AuthError, ServiceUnavailable
from storage.types import UserId

_LOG: Final = logging.getLogger("ankisyncd")
_TOUCH_AFTER_MS = 60 * 60 * 1000
_ASK_AGAIN_AFTER_MS = 15 * 1000
_PATIENCE_S = 1.0
"""How long a request waits for the directory while its last answer may still serve."""
_LONGEST_WAIT_S = 20.0
"""How long a request waits when it may not; clients give up after 30 s."""
_SESSION_MS = 30 * 1000
"""How long a running sync goes on without reading its key: a revocation is that late."""
_SKEW_MS = 5 * 1000
_CLIENT_LENGTH = 100
_LONGEST_INPUT = 4096
_OPENED_KEPT = 1000
_CONFIRMED_KEPT = 4000
_PUT_OFF_KEPT = 4000

_Confirmed = dict[bytes, tuple[UserId, int]]
"""Hash of a host key -> whose it is, and until when that need not be asked again."""


class KeyProof(msgspec.Struct, frozen=True):
    """That a host key was found good. A running sync stores hash and time in its session record."""

    user: UserId
    key_hash: bytes
    until_ms: int
    """Until then a request of a sync that was begun with this key needs no other proof; 0: never."""


class Admission:
    """A request's host key before it is proven; `prove` must be called before anything is read or written."""

    __slots__ = ("_authenticator", "_key", "_proof", "key_hash", "user")

    def __init__(
        self, authenticator: Authenticator, key: str, user: UserId, key_hash: bytes, proof: KeyProof | None
    ) -> None:
        self._authenticator, self._key, self._proof = authenticator, key, proof
        self.user, self.key_hash = user, key_hash
        """The user is what the key claims, until `prove` has returned."""

    @property
    def is_proven(self) -> bool:
        """Whether `prove` has returned."""
        return self._proof is not None

    def prove(self, session_key_hash: bytes = b"", session_until_ms: int = 0) -> KeyProof:
        """Make sure that the key is the user's.

        By what the session record of that user carries, where it carries something: without any call.
        Else by the key's own record. Raises: AuthError, ServiceUnavailable.
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
    """A question to the directory that is on its way."""

    __slots__ = ("done", "error", "record")

    def __init__(self, record: KeyRecord) -> None:
        self.done = threading.Event()
        self.error: Exception | None = None
        self.record = record
        """As it is after the check."""


def in_thread(work: Callable[[], None]) -> None:
    """Run beside the caller; a greenlet in a worker, whose threads gevent has patched."""
    threading.Thread(target=work, daemon=True, name="beside").start()


class Authenticator:
    """`login` for hostKey; `authenticate`, or `admit` within a running sync, for every other request."""

    def __init__(  # noqa: PLR0913 - by name
        self,
        directory: UserDirectory,
        keys: HostKeys,
        attempts: LoginAttempts,
        clock_ms: Callable[[], int],
        revision: Callable[[], int] | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        beside: Callable[[Callable[[], None]], None] = in_thread,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """`revision` is another number whenever a user or a key may have changed, in any process.

        Without one every request asks.
        """
        self._directory, self._keys, self._attempts = directory, keys, attempts
        self._clock_ms, self._sleep, self._beside = clock_ms, sleep, beside
        self._patience_s = patience_s
        self._turns = Turns(directory.verify_at_once)
        self._revision = revision
        self._confirmed: tuple[int, _Confirmed] = (-1, {})
        self._touch_after_ms = directory.recheck_after_ms or _TOUCH_AFTER_MS
        self._checks: dict[bytes, _Check] = {}
        self._opened: OrderedDict[tuple[bytes, bytes], bytes] = OrderedDict()
        # Not asked again before this time: all keys, and single ones.
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
        with self._turns.turn((("name", counted_name(username)[:64]), ("region", region_of(address)))):
            attempt = self._attempts.admit(username, address)
            try:
                login = self._verify(username, password, takes_generated=takes_generated)
                self._attempts.succeeded(attempt)
            except ServiceUnavailable:
                self._attempts.withdraw(attempt)
                raise
            except AuthError as exc:
                refusal = exc
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
        """Whose key it is. Raises: AuthError, ServiceUnavailable."""
        return self._prove(key, _hash_of(key)).user

    def admit(self, key: str) -> Admission:
        """Whose key it claims to be, without any call; `Admission.prove` has to follow.

        A key that names no user, and one that is cheaply proven here, is proven at once.
        Raises: AuthError, ServiceUnavailable.
        """
        key_hash = _hash_of(key)
        if self._revision is None and (user := claimed_user(key)) is not None:
            return Admission(self, key, user, key_hash, None)
        proof = self._prove(key, key_hash)
        return Admission(self, key, proof.user, key_hash, proof)

    def prove_by_session(self, key: str, key_hash: bytes, session: KeyProof) -> KeyProof:
        """See `Admission.prove`; `session` is what the record of the user `session.user` carries."""
        now_ms = self._clock_ms()
        # A time that lies further ahead was written by a clock that differs too much from ours.
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
        # Asked before the key is looked at: what changes after that is another revision.
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
        """The keys found good at this revision. Who waits meanwhile keeps to what was so at theirs."""
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
        """The key's record, which the directory has confirmed, now or not long ago."""
        record = self._keys.find(key_hash)
        if record is None:
            raise AuthError("unknown host key")
        since_ms = now_ms - record.checked_ms
        if since_ms < self._directory.recheck_after_ms:
            return record
        proof = self._proof_of(key, record)
        if not self._directory.outage_grace_ms:
            return self._ask(key, record, proof, now_ms)
        # While its last answer may serve, one request of a key asks, not all that come meanwhile, and
        # none for a while after an outage was noticed: else each would wait for the directory.
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
        if may_serve and isinstance(error, ServiceUnavailable):
            return record
        raise error

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

    def _ask_again_ms(self, key_hash: bytes) -> int:
        return max(self._directory_away_until_ms, self._put_off_until_ms.get(key_hash, 0))

    def _ask_beside(self, key: str, record: KeyRecord, proof: bytes, now_ms: int) -> _Check:
        """Ask the directory in a thread of its own: a request need not wait until it answers."""
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

        self._beside(ask)
        return check

    def _ask(self, key: str, record: KeyRecord, proof: bytes, now_ms: int) -> KeyRecord:
        """Ask the directory whether the login still stands; the record as it is then.

        Raises: AuthError if it does not: the key has ended. ServiceUnavailable.
        """
        try:
            identity = self._directory.confirm(Identity(record.user, proof))
        except ServiceUnavailable as exc:
            self._put_off(record.hash, exc, now_ms)
            raise
        if identity is None:
            # Gone for good: a password that is changed back must not bring old keys back. A key that
            # cannot be deleted now is refused all the same, and asked about the next time.
            with suppress(ServiceUnavailable):
                self._keys.revoke(record.hash)
            raise AuthError("the login behind this host key no longer stands")
        if now_ms - record.used_ms >= self._touch_after_ms:
            sealed = record.sealed if identity.proof == proof else seal(key, record.user, identity.proof)
            record = msgspec.structs.replace(record, used_ms=now_ms, checked_ms=now_ms, sealed=sealed)
            with suppress(ServiceUnavailable):  # a full disk must not keep people from downloading
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
        # Requests go on meanwhile, so nothing else would tell the operator.
        if now_ms >= self._warn_again_ms:
            self._warn_again_ms = until_ms
            _LOG.warning("logins cannot be confirmed, their host keys go on for a while: %s", error)


def _hash_of(key: str, kind: KeyKind = KeyKind.DEVICE) -> bytes:
    try:
        return hash_of(key, kind)
    except UnicodeEncodeError:
        raise AuthError("unknown host key") from None
