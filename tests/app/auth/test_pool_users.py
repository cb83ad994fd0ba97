"""Users of a pool are called by name, e-mail or id; what is ambiguous or unknown is said."""

from __future__ import annotations

import re

import pytest

from app.auth.aws.users import ListingRefused, PoolUser, PoolUsers
from app.auth.local.users import UserListError

ID = "93f4b8a2-4041-70f2-5e5c-0a1b2c3d4e5f"
OTHER = "13f4b8a2-4041-70f2-5e5c-0a1b2c3d4e5f"


class Pool:
    """Answers filters as ListUsers does: one attribute, exactly."""

    def __init__(self, *users: dict[str, str]) -> None:
        self.users = users
        self.asked: list[str] = []

    def look_up(self, query):
        self.asked.append(query)
        attribute, value = "", ""
        if query:
            match = re.fullmatch(r'(\w+) = "((?:[^"\\]|\\.)*)"', query)
            assert match is not None, query
            attribute, value = match[1], re.sub(r"\\(.)", r"\1", match[2])
        for user in self.users:
            if not query or user.get(attribute) == value:
                yield PoolUser(user["sub"], user["username"], user.get("email", ""), 1, 2)


def users_of(*users):
    return PoolUsers(Pool(*users).look_up)


def refused(query):
    raise ListingRefused("no right")
    yield


@pytest.mark.parametrize("name", ["alice", "alice@school.example", "Alice@School.example", ID, ID.upper()])
def test_a_user_is_found_by_name_email_and_id(name):
    users = users_of(
        {"sub": OTHER, "username": "bob", "email": "bob@school.example"},
        {"sub": ID, "username": "alice", "email": "alice@school.example"},
    )
    found = users.find(name)
    assert (found.id, found.name) == (ID, "alice")


def test_a_user_whose_name_is_a_mere_id_is_shown_by_email():
    users = users_of({"sub": ID, "username": ID, "email": "alice@school.example"})
    assert users.find("alice@school.example").name == "alice@school.example"
    assert [user.name for user in users.list()] == ["alice@school.example"]


def test_an_address_of_two_users_is_refused_with_their_ids():
    users = users_of(
        {"sub": ID, "username": "a", "email": "x@y.z"}, {"sub": OTHER, "username": "b", "email": "x@y.z"}
    )
    with pytest.raises(UserListError, match=f"2 users .*{ID}, {OTHER}"):
        users.find("x@y.z")


@pytest.mark.parametrize(
    "name", ["", "nobody", "a/b", "..", 'a" or sub = "', "back\\slash", "a\nb", "x" * 129]
)
def test_what_nobody_is_called_is_nobody(name):
    assert users_of({"sub": ID, "username": "alice"}).find(name) is None


def test_the_id_of_a_user_who_left_the_pool_still_names_what_is_kept():
    found = users_of().find(ID)
    assert found.id == found.name == ID


def test_without_the_right_to_list_users_ids_still_work():
    users = PoolUsers(refused)
    assert users.find(ID).id == ID
    with pytest.raises(ListingRefused):
        users.find("alice")
