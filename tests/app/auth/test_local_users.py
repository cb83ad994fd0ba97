"""The user list and SYNC_USERn: who is in, under which id, at what cost."""

from __future__ import annotations

import base64
import hashlib
import time

import pytest

from app.auth.local.environment import EnvironmentUsers, environment_id
from app.auth.local.users import UserListError
from app.auth.passwords import DUMMY_ARGON2
from app.errors import AuthError


def pbkdf2(password: str, rounds: int = 1000, salt: bytes = b"0123456789abcdef") -> str:
    digest = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds, 32)
    texts = [base64.b64encode(part).decode().rstrip("=") for part in (salt, digest)]
    return f"$pbkdf2-sha256$i={rounds},l=32${texts[0]}${texts[1]}"


def test_environment_users_log_in_and_keep_id_and_keys_over_restarts(make_server):
    server = make_server(environment={"alice": "a", "bob": "b:with:colons"})
    key = server.login("bob", "b:with:colons")
    restarted = make_server(environment={"bob": "b:with:colons", "alice": "a"})
    assert restarted.door.authenticate(key) == server.users.find("bob").id
    assert server.users.find("bob").id != server.users.find("alice").id


def test_an_environment_users_changed_password_ends_its_keys_for_good(make_server):
    key = make_server(environment={"bob": "old"}).login("bob", "old")
    with pytest.raises(AuthError):
        make_server(environment={"bob": "new"}).door.authenticate(key)
    with pytest.raises(AuthError):
        make_server(environment={"bob": "old"}).door.authenticate(key)


def test_a_removed_environment_user_is_out(make_server):
    key = make_server(environment={"bob": "b", "eve": "e"}).login("eve", "e")
    without = make_server(environment={"bob": "b"})
    with pytest.raises(AuthError):
        without.door.authenticate(key)
    with pytest.raises(AuthError):
        without.login("eve", "e")


def test_hashed_environment_passwords_are_verified_and_the_hash_itself_is_no_password(make_server):
    text = pbkdf2("pässword")
    server = make_server(environment={"bob": text}, hashed=True)
    assert server.door.authenticate(server.login("bob", "pässword")) == server.users.find("bob").id
    for wrong in ("password", text, ""):
        with pytest.raises(AuthError):
            server.login("bob", wrong)


def test_the_hash_of_the_official_manual_is_understood(make_server):
    salt = base64.b64decode("tonvuYGpksNFQBlEmm3lxg==")
    server = make_server(environment={"bob": pbkdf2("pass", 600_000, salt)}, hashed=True)
    assert "$tonvuYGpksNFQBlEmm3lxg$" in pbkdf2("pass", 600_000, salt)
    assert server.login("bob", "pass")


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "$pbkdf2-sha256$i=0,l=32$c2FsdA$aGFzaA",
        "$pbkdf2-sha256$i=1000,l=31" + pbkdf2("x").split("l=32")[1],
        "$pbkdf2-sha256$i=1000$%%%$aGFzaGFzaGFzaA",
        "$pbkdf2-sha256$i=99999999999$c2FsdHNhbHQ$aGFzaGFzaGFzaA",
        "$argon2id$nonsense",
        "$scrypt$ln=16$c2FsdA$aGFzaA",
    ],
)
def test_a_hash_that_cannot_be_used_is_refused_at_the_start_and_not_repeated(text):
    with pytest.raises(ValueError, match="'bob'") as caught:
        EnvironmentUsers([("bob", text)], hashed=True)
    assert text not in str(caught.value)


def test_thirty_two_environment_users_cost_the_start_no_slow_hash(make_server):
    before = time.process_time()
    server = make_server(environment={f"user{n}": f"password{n}" for n in range(32)})
    assert time.process_time() - before < 0.05
    assert server.verified == []


def test_every_login_verifies_the_same_number_of_hashes_whoever_it_is(make_server):
    server = make_server(environment={"bob": "b"})
    server.users.add("alice", "a")
    for name, password in [("alice", "a"), ("alice", "x"), ("bob", "b"), ("bob", "x"), ("nobody", "x")]:
        server.verified.clear()
        attempt_login(server, name, password)
        assert len(server.verified) == 1, name
        assert server.verified[0].split("$")[1:4] == DUMMY_ARGON2.split("$")[1:4], name


def test_with_hashed_environment_users_each_kind_of_hash_is_verified_once_for_everybody(make_server):
    server = make_server(environment={"bob": pbkdf2("b", 1000), "eve": pbkdf2("e", 2000)}, hashed=True)
    server.users.add("alice", "a")
    costs = set()
    for name, password in [("alice", "a"), ("bob", "b"), ("bob", "x"), ("eve", "e"), ("nobody", "x")]:
        server.verified.clear()
        attempt_login(server, name, password)
        costs.add(tuple(sorted("$".join(text.split("$")[1:3]) for text in server.verified)))
    assert costs == {("argon2id$v=19", "pbkdf2-sha256$i=1000,l=32", "pbkdf2-sha256$i=2000,l=32")}


def attempt_login(server, name, password):
    try:
        server.login(name, password)
    except AuthError:
        return


def test_hashes_of_the_list_cost_what_the_dummy_costs(server):
    assert server.passwords.hash("x").split("$")[1:4] == DUMMY_ARGON2.split("$")[1:4]


def test_a_name_in_the_list_goes_before_the_environment_and_is_reported(make_server):
    listed = make_server().users.add("bob", "from-list")
    server = make_server(environment={"bob": "from-env"})
    assert server.door.authenticate(server.login("bob", "from-list")) == listed.id
    with pytest.raises(AuthError):
        server.login("bob", "from-env")
    assert server.users.shadowed() == ["bob"]


def test_an_environment_user_can_move_to_the_list_with_its_data(make_server):
    server = make_server(environment={"bob": "old"})
    before = server.users.find("bob")
    key = server.login("bob", "old")
    with pytest.raises(UserListError, match="--from-environment"):
        server.users.add("bob", "new")
    assert server.users.add("bob", "new", user=environment_id("bob")).id == before.id
    assert make_server().users.find("bob").id == before.id
    with pytest.raises(AuthError):
        server.door.authenticate(key)
    assert server.door.authenticate(server.login("bob", "new")) == before.id


def test_environment_users_cannot_be_changed_by_command(make_server):
    server = make_server(environment={"bob": "b"})
    for change in (lambda: server.users.change_password("bob", "x"), lambda: server.users.remove("bob")):
        with pytest.raises(UserListError, match="SYNC_USER"):
            change()


@pytest.mark.parametrize("name", ["", " a", "a ", "a\nb", "a\0b", "a\u200eb", "x" * 129])
def test_names_that_would_confuse_people_are_refused(server, name):
    with pytest.raises(UserListError):
        server.users.add(name, "x")


def test_a_name_is_taken_once_in_whatever_normal_form(server):
    server.users.add("Zoë", "x")
    with pytest.raises(UserListError, match="already"):
        server.users.add("Zoe\u0308", "x")


def test_an_empty_password_is_refused(server):
    with pytest.raises(UserListError, match="empty"):
        server.users.add("alice", "")
    server.users.add("alice", "x")
    with pytest.raises(UserListError, match="empty"):
        server.users.change_password("alice", "")


def test_unknown_names_are_said_so_to_the_administrator(server):
    for change in (lambda: server.users.change_password("alice", "x"), lambda: server.users.remove("alice")):
        with pytest.raises(UserListError, match="no user 'alice'"):
            change()


def test_list_shows_both_kinds_by_name(make_server):
    server = make_server(environment={"bob": "b"})
    server.users.add("carol", "c")
    server.users.add("alice", "a")
    assert [(user.name, user.source) for user in server.users.list()] == [
        ("alice", "list"),
        ("bob", "environment"),
        ("carol", "list"),
    ]


@pytest.mark.parametrize("user", ["", "..", "a/b", "a b", "x" * 129])
def test_an_id_that_is_none_is_refused(server, user):
    with pytest.raises(UserListError, match="no user id"):
        server.users.add("alice", "x", user=user)


def test_nobody_takes_over_the_data_of_another_user(make_server):
    server = make_server(environment={"bob": "b"})
    alice = server.users.add("alice", "x")
    for taken in (alice.id, environment_id("bob")):
        with pytest.raises(UserListError, match="id"):
            server.users.add("carol", "x", user=taken)
