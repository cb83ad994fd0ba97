"""The users of `ankisyncctl` if the server has no user list: only SYNC_USERn, or a Cognito pool.

All changes raise UserListError, as users are changed in the environment or in the pool.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, NoReturn, Protocol, TypeVar

import apsw

from app.auth.local.users import ListedUser, UserListError
from app.auth.local.usersfile import UsersFile
from storage.types import UserId

T = TypeVar("T")

_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE).fullmatch
"""The form of a `sub`."""


class UserList(Protocol):
    """The port of users for the admin command. See `app.auth.local.users.LocalUsers`."""

    def find(self, name: str) -> ListedUser | None:
        """The user of that name."""

    def shadowed(self) -> list[str]:
        """Names of SYNC_USERn that are in the user list, too."""

    def list(self) -> Iterator[ListedUser]:
        """All users that the server can list, ordered by name."""

    def add(self, name: str, password: str, *, user: UserId | None = None) -> ListedUser:
        """Add a user."""

    def change_password(self, name: str, password: str) -> ListedUser:
        """Change a user's password."""

    def remove(self, name: str) -> ListedUser:
        """Remove a user."""


class NoUsersFile(UsersFile):
    """An empty user list for `LocalUsers`, so that there are only SYNC_USERn."""

    def __init__(self) -> None:
        """There is no file."""

    def read(self, sql: str, bindings: tuple[Any, ...] = ()) -> list[Any]:  # noqa: ARG002 - as the file has it
        """No rows."""
        return []

    def write(self, work: Callable[[apsw.Connection], T], *, durable: bool = True) -> T:
        """Raises: UserListError."""
        del work, durable
        raise UserListError("with ANKISYNCD_BACKEND=aws, users are SYNC_USERn or in a Cognito user pool")


class ListingRefused(UserListError):
    """The user pool does not let us list its users."""


class PoolUser(NamedTuple):
    """A user as the pool tells of them."""

    sub: str
    username: str
    email: str
    created_ms: int
    changed_ms: int


class PoolUsers:
    """Users of a Cognito pool, found by name, e-mail or id (`sub`)."""

    def __init__(self, look_up: Callable[[str], Iterator[PoolUser]]) -> None:
        """`look_up` gives the users that a filter of ListUsers finds, all of them for an empty one.

        It raises ListingRefused, ServiceUnavailable.
        """
        self._look_up = look_up

    def find(self, name: str) -> ListedUser | None:
        """The user of that name, e-mail or id. An id need not be in the pool: its data may outlive it.

        Raises: UserListError if several users match.
        """
        is_id = _ID(name) is not None
        if not name or any(unicodedata.category(char).startswith("C") for char in name):
            return None
        try:
            found = self._matches(name, is_id=is_id)
        except ListingRefused:
            if not is_id:
                raise
            found = []
        if len(found) > 1:
            ids = ", ".join(user.sub for user in found)
            raise UserListError(f"{len(found)} users of the pool are called {name!r}: give an id of {ids}")
        if found:
            return _listed(found[0])
        return ListedUser(UserId(name.lower()), name, "cognito", None, None) if is_id else None

    def _matches(self, name: str, *, is_id: bool) -> list[PoolUser]:
        """By the first attribute that anybody has the name in."""
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        filters = [f'{attribute} = "{quoted}"' for attribute in ("username", "email", "preferred_username")]
        if name != name.lower():
            filters.insert(2, f'email = "{quoted.lower()}"')
        if is_id:
            filters.insert(0, f'sub = "{name.lower()}"')
        for query in filters:
            if found := list({user.sub: user for user in self._look_up(query)}.values()):
                return found
        return []

    def shadowed(self) -> list[str]:
        return []

    def list(self) -> Iterator[ListedUser]:
        return iter(sorted((_listed(user) for user in self._look_up("")), key=lambda listed: listed.name))

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


def _listed(user: PoolUser) -> ListedUser:
    """In pools whose users sign in by e-mail, the user name is a mere id."""
    name = user.email if user.email and _ID(user.username) else user.username
    return ListedUser(UserId(user.sub), name, "cognito", user.created_ms, user.changed_ms)
