"""Users do not see each other, and keys open only what they should."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import Make
from tests.conformance.device import ClientError, assert_same, converge
from tests.support.servers import Server, User


def test_two_users_never_see_each_other(make_device: Make, server: Server) -> None:
    first, second = server.next_user(), server.next_user()
    a, b = make_device(first), make_device(second)
    a.add_notes([["of the first", ""]], deck="First")
    b.add_notes([["of the second", ""]], deck="Second")
    a.write_media("shared.txt", 10, "first")
    b.write_media("shared.txt", 10, "second")
    for device in (a, b):
        device.first_upload()
        device.sync_media()
    for word, user, original in (("first", first, a), ("second", second, b)):
        twin = make_device(user)
        twin.first_download()
        twin.sync_media()
        twin.add_notes([["from the twin", ""]])
        converge(twin, original)
        assert_same(twin, original)
        assert twin.media() == original.media()
        assert twin.rows("select count() from notes where flds like ?", f"of the {word}%") == [[1]]
        assert twin.rows("select count() from notes") == [[2]]


def test_a_wrong_password_is_refused(make_device: Make, server: Server, user: User) -> None:
    device = make_device(user)
    for wrong in (User(user.name, "wrong"), User("nobody", user.password), User("", "")):
        with pytest.raises(ClientError, match=r"(?i)auth|password"):
            device.log_in(server.url, wrong)
    device.log_in(server.url, user)
    assert device.sync() == "no changes"


def test_an_unknown_key_is_refused(make_device: Make, user: User) -> None:
    device = make_device(user)
    device.add_notes([["x", "y"]])
    device.set_key("0" * 40)
    with pytest.raises(ClientError, match=r"(?i)auth|password|logged"):
        device.sync()


def test_a_second_login_leaves_the_first_valid(make_device: Make, user: User) -> None:
    a = make_device(user)
    a.add_notes([["before", ""]])
    a.first_upload()
    b = make_device(user)
    b.first_download()
    a.add_notes([["after", ""]])
    converge(a, b)
    assert_same(a, b)


def test_a_path_prefix_spelled_twice_works(make_device: Make, server: Server, user: User) -> None:
    device = make_device(user)
    device.add_notes([["x", "y"]])
    device.first_upload()
    if server.kind == "ours":
        # people paste the address of the older server with its /sync/ into newer clients
        device.endpoint(server.url + "sync/")
        assert device.sync() == "no changes"
