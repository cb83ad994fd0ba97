"""Users from the variables SYNC_USERn, as on the official server. Used by `local` and `app.main`.

Nothing is stored: the id of a user is derived from the name, and passwords are in the environment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from app.auth.passwords import check_hash, normal_password
from app.auth.users import normal_name
from storage.types import UserId


class EnvironmentUser:
    """One user; `stamp` changes with the password."""

    __slots__ = ("id", "name", "password_hash", "stamp")

    def __init__(self, name: str, stamp: bytes, password_hash: str | None) -> None:
        self.name, self.stamp, self.password_hash = name, stamp, password_hash
        self.id = environment_id(name)

    def __repr__(self) -> str:
        return f"EnvironmentUser({self.name!r})"


class EnvironmentUsers:
    """All users, by name and by id.

    `credentials`: (name, password) or, if `hashed`, (name, PHC hash).
    Raises: ValueError, with the name of the user whose hash cannot be used.
    """

    def __init__(self, credentials: Iterable[tuple[str, str]] = (), *, hashed: bool = False) -> None:
        users = [_environment_user(name, secret, hashed=hashed) for name, secret in credentials]
        self.by_name: Mapping[str, EnvironmentUser] = MappingProxyType({user.name: user for user in users})
        self.by_id: Mapping[str, EnvironmentUser] = MappingProxyType({user.id: user for user in users})
        if len(self.by_name) != len(users):
            raise ValueError("two SYNC_USERn have the same name")


def environment_id(name: str) -> UserId:
    """The id of a SYNC_USERn, derived from the name, so that it is the same at each start."""
    digest = hashlib.sha256(b"ankisyncd environment user\0" + normal_name(name).encode())
    return UserId(f"env-{digest.hexdigest()[:32]}")


def stamp_of(password: str) -> bytes:
    """The hash by which a plain password is compared. It is a fast one: never store it unencrypted."""
    return hashlib.sha256(b"ankisyncd password\0" + normal_password(password).encode()).digest()


def _environment_user(name: str, secret: str, *, hashed: bool) -> EnvironmentUser:
    name = normal_name(name)
    if not hashed:
        return EnvironmentUser(name, stamp_of(secret), None)
    try:
        check_hash(secret)
    except ValueError as exc:
        raise ValueError(f"the password of SYNC_USER {name!r} is {exc}") from None
    return EnvironmentUser(name, hashlib.sha256(secret.encode()).digest(), secret)
