"""Users named by SYNC_USERn, as the official server has them: name and password come with each start.

Refuses to store anything: ids follow from the names, and passwords stay in the environment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from app.auth.passwords import check_hash, normal_password
from app.auth.users import normal_name
from storage.types import UserId


class EnvironmentUser:
    """One of them; `stamp` changes when the password does."""

    __slots__ = ("id", "name", "password_hash", "stamp")

    def __init__(self, name: str, stamp: bytes, password_hash: str | None) -> None:
        self.name, self.stamp, self.password_hash = name, stamp, password_hash
        self.id = environment_id(name)

    def __repr__(self) -> str:
        return f"EnvironmentUser({self.name!r})"


class EnvironmentUsers:
    """All of them, by name and by id. Cheap to make: nothing is hashed slowly at the start.

    `credentials`: (name, password) or, where `hashed`, (name, PHC hash).
    Raises: ValueError naming the user whose hash cannot be used.
    """

    def __init__(self, credentials: Iterable[tuple[str, str]] = (), *, hashed: bool = False) -> None:
        users = [_environment_user(name, secret, hashed=hashed) for name, secret in credentials]
        self.by_name: Mapping[str, EnvironmentUser] = MappingProxyType({user.name: user for user in users})
        self.by_id: Mapping[str, EnvironmentUser] = MappingProxyType({user.id: user for user in users})
        if len(self.by_name) != len(users):
            raise ValueError("two SYNC_USERn have the same name")


def environment_id(name: str) -> UserId:
    """The id of a SYNC_USERn: follows from the name, so the data is found again at each start."""
    digest = hashlib.sha256(b"ankisyncd environment user\0" + normal_name(name).encode())
    return UserId(f"env-{digest.hexdigest()[:32]}")


def stamp_of(password: str) -> bytes:
    """What a plain password is compared by; in memory only, for it is quick to guess from."""
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
