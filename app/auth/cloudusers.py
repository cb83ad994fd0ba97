"""Who the users are where this server keeps no list of them: SYNC_USERn alone, or a Cognito pool.

Refuses every change: it is made in the environment, or in the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Protocol, TypeVar

import apsw

from app.auth.local import ListedUser, UserListError
from app.auth.usersfile import UsersFile
from storage.heads.keys import check_user
from storage.types import UserId

T = TypeVar("T")


class UserList(Protocol):
    """What the admin command asks of users. See `app.auth.local.LocalUsers`."""

    def find(self, name: str) -> ListedUser | None:
        """The user of that name."""

    def shadowed(self) -> list[str]:
        """Names that are in two places."""

    def list(self) -> Iterator[ListedUser]:
        """All users that are known here, by name."""

    def add(self, name: str, password: str, *, user: UserId | None = None) -> ListedUser:
        """A new user."""

    def change_password(self, name: str, password: str) -> ListedUser:
        """Another password."""

    def remove(self, name: str) -> ListedUser:
        """Forget a user."""


class NoUsersFile(UsersFile):
    """An empty user list for `LocalUsers`, so that there are SYNC_USERn and no others."""

    def __init__(self) -> None:
        """There is no file."""

    def read(self, sql: str, bindings: tuple[Any, ...] = ()) -> list[Any]:  # noqa: ARG002 - as the file has it
        """No rows."""
        return []

    def write(self, work: Callable[[apsw.Connection], T], *, durable: bool = True) -> T:
        """Raises: UserListError."""
        del work, durable
        raise UserListError("with ANKISYNCD_BACKEND=aws, users are SYNC_USERn or in a Cognito user pool")


class PoolUsers:
    """Users of a Cognito pool, which the server cannot list: they are called by their id, the `sub`."""

    def find(self, name: str) -> ListedUser | None:
        try:
            check_user(UserId(name))
        except ValueError:
            return None
        return ListedUser(UserId(name), name, "cognito", None, None)

    def shadowed(self) -> list[str]:
        return []

    def list(self) -> Iterator[ListedUser]:
        return iter(())

    def add(self, name: str, password: str, *, user: UserId | None = None) -> ListedUser:
        del name, password, user
        _refuse()

    def change_password(self, name: str, password: str) -> ListedUser:
        del name, password
        _refuse()

    def remove(self, name: str) -> ListedUser:
        del name
        _refuse()


def _refuse() -> NoReturn:
    raise UserListError("users are kept in the Cognito user pool: change them there")
