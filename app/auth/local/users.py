"""The user directory of the local user list and SYNC_USERn. Used by `authenticator` and `ankisyncctl`.

Changes by one process are visible to all others at once.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable, Iterator

import apsw
import msgspec

from app.auth.local.environment import EnvironmentUsers, stamp_of
from app.auth.local.hostkeys import delete_keys_of
from app.auth.local.usersfile import UsersFile
from app.auth.passwords import DUMMY_ARGON2, Passwords
from app.auth.users import Identity, fault_of_name, normal_name
from app.errors import AppError, AuthError
from storage.types import UserId

_ID_PATTERN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


class UserListError(AppError):
    """A change of the user list that cannot be made; the text is for the user of the command."""


class ListedUser(msgspec.Struct, frozen=True):
    """One user as `ankisyncctl user list` shows it."""

    id: UserId
    name: str
    source: str
    """`list`, or `environment` for a SYNC_USERn."""
    created_ms: int | None
    changed_ms: int | None


class LocalUsers:
    """See `app.auth.users.UserDirectory`. A user in the list hides a SYNC_USERn with the same name."""

    verify_at_once = 2
    """Each one takes 32 MiB and a core for 55 ms."""
    recheck_after_ms = 0
    outage_grace_ms = 0

    def __init__(
        self,
        file: UsersFile,
        environment: EnvironmentUsers,
        passwords: Passwords,
        clock_ms: Callable[[], int],
    ) -> None:
        self._file, self._environment = file, environment
        self._passwords, self._clock_ms = passwords, clock_ms
        hashes = [user.password_hash for user in environment.by_name.values() if user.password_hash]
        self._dummy_hashes = tuple({_kind(text): text for text in hashes}.values())

    def verify(self, username: str, password: str) -> Identity:
        """See the port.

        To take the same time for all users, every login verifies one argon2id hash, and one hash of each
        kind that SYNC_USERn have; if the user has no hash of a kind, a dummy is used.
        """
        name = normal_name(username)
        rows = self._file.read("SELECT id, password, stamp FROM users WHERE name = ?", (name,))
        fixed = None if rows else self._environment.by_name.get(name)
        # None for an unknown user, and for a SYNC_USERn with a plain password.
        own_hash = rows[0][1] if rows else fixed.password_hash if fixed else None
        hashes = self._hashes_to_verify(own_hash)
        answers = dict(zip(hashes, self._passwords.verify(password, hashes), strict=True))
        # In constant time, and for unknown names, too.
        same_stamp = hmac.compare_digest(stamp_of(password), fixed.stamp if fixed else b"\0" * 32)
        if not (answers[own_hash] if own_hash else fixed is not None and same_stamp):
            raise AuthError("wrong user name or password")
        return Identity(fixed.id, fixed.stamp) if fixed else Identity(UserId(rows[0][0]), rows[0][2])

    def knows(self, username: str) -> bool:
        """As the port says."""
        return self.find(username) is not None

    def confirm(self, identity: Identity) -> Identity | None:
        """See the port: the stamp must be that of the present password.

        Raises: AuthError for an unknown user. The key is not deleted, as a SYNC_USERn may be there again
        at the next start; the keys of users in the list are deleted by `remove`.
        """
        rows = self._file.read("SELECT stamp FROM users WHERE id = ?", (identity.user,))
        if rows:
            return identity if hmac.compare_digest(rows[0][0], identity.proof) else None
        fixed = self._environment.by_id.get(identity.user)
        if fixed is None:
            raise AuthError("the user of this host key is not known")
        return identity if hmac.compare_digest(fixed.stamp, identity.proof) else None

    def add(self, name: str, password: str, *, user: UserId | None = None) -> ListedUser:
        """Add a user; with `user`, one with this id, who gets the data stored under it.

        `environment_id(name)` is the id of the SYNC_USERn with this name.
        """
        name = normal_name(name)
        if fault := fault_of_name(name) or fault_of_password(password):
            raise UserListError(fault)
        if name in self._environment.by_name and user is None:
            raise UserListError(f"{name!r} is a SYNC_USERn; --from-environment takes over its data")
        if user is not None and (fault := self._fault_of_id(user, name)):
            raise UserListError(fault)
        user = UserId(f"u{secrets.token_hex(12)}") if user is None else user
        hashed, now_ms = self._passwords.hash(password), self._clock_ms()
        row = (user, name, hashed, secrets.token_bytes(16), now_ms, now_ms)

        def insert(connection: apsw.Connection) -> None:
            connection.execute("INSERT INTO users VALUES (?, ?, ?, ?, ?, ?)", row)
            delete_keys_of(connection, user)

        try:
            self._file.write(insert)
        except apsw.ConstraintError:
            raise UserListError(f"there is a user {name!r} or one with id {user} already") from None
        return ListedUser(user, name, "list", now_ms, now_ms)

    def change_password(self, name: str, password: str) -> ListedUser:
        """Change a password, and delete all keys of the user, in one transaction."""
        if fault := fault_of_password(password):
            raise UserListError(fault)
        user = self._read_listed(name)
        hashed, now_ms = self._passwords.hash(password), self._clock_ms()
        row = (hashed, secrets.token_bytes(16), now_ms, user.id)

        def update(connection: apsw.Connection) -> None:
            connection.execute("UPDATE users SET password = ?, stamp = ?, changed_ms = ? WHERE id = ?", row)
            delete_keys_of(connection, user.id)

        self._file.write(update)
        return msgspec.structs.replace(user, changed_ms=now_ms)

    def remove(self, name: str) -> ListedUser:
        """Remove a user and its keys, in one transaction; its data are not touched."""
        user = self._read_listed(name)

        def delete(connection: apsw.Connection) -> None:
            connection.execute("DELETE FROM users WHERE id = ?", (user.id,))
            delete_keys_of(connection, user.id)

        self._file.write(delete)
        return user

    def find(self, name: str) -> ListedUser | None:
        """The user with this name, from the list or from SYNC_USERn."""
        name = normal_name(name)
        return next((user for user in self.list() if user.name == name), None)

    def shadowed(self) -> list[str]:
        """Names of SYNC_USERn that are in the list, too, so that the variable has no effect."""
        names = {row[0] for row in self._file.read("SELECT name FROM users")}
        return sorted(names & self._environment.by_name.keys())

    def list(self) -> Iterator[ListedUser]:
        """All users, by name."""
        rows = self._file.read("SELECT id, name, created_ms, changed_ms FROM users")
        listed = {name: ListedUser(user, name, "list", *times) for user, name, *times in rows}
        fixed = {
            user.name: ListedUser(user.id, user.name, "environment", None, None)
            for user in self._environment.by_name.values()
        }
        return iter(sorted((fixed | listed).values(), key=lambda user: user.name))

    def _fault_of_id(self, user: UserId, name: str) -> str | None:
        if not _ID_PATTERN.fullmatch(user):
            return f"{user!r} is no user id"
        fixed = self._environment.by_id.get(user)
        return f"{user} is the id of the SYNC_USERn {fixed.name!r}" if fixed and fixed.name != name else None

    def _hashes_to_verify(self, own_hash: str | None) -> tuple[str, ...]:
        dummies = {_kind(text): text for text in (DUMMY_ARGON2, *self._dummy_hashes)}
        own = {_kind(own_hash): own_hash} if own_hash else {}
        return tuple((dummies | own).values())

    def _read_listed(self, name: str) -> ListedUser:
        user = self.find(name)
        if user is None:
            raise UserListError(f"there is no user {name!r}")
        if user.source != "list":
            raise UserListError(f"{name!r} is a SYNC_USERn: change it there")
        return user


def fault_of_password(password: str) -> str | None:
    """Why a password is invalid; None if it is valid."""
    return None if password else "a password cannot be empty"


def _kind(text: str) -> str:
    """What the time to verify a hash depends on: algorithm and, except for argon2id, iterations."""
    algorithm, parameters = text.split("$")[1:3]
    return algorithm if algorithm == "argon2id" else f"{algorithm} {parameters}"
