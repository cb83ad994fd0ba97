"""Sessions of browsers and generated passwords: kept like host keys, and none stands for another."""

from __future__ import annotations

import pytest

from app.auth.hostkeys import KeyKind, hash_of
from app.errors import AuthError, RateLimited

ADDRESS = "192.0.2.1"


def sign_in(server, password: str = "secret") -> str:
    return server.door.sign_in("alice", password, ADDRESS, "Firefox")


@pytest.fixture
def alice(server):
    return server.users.add("alice", "secret")


def test_a_session_is_of_the_user_who_signed_in(server, alice):
    session = server.door.find_session(sign_in(server))
    assert (session.user, session.name, session.client) == (alice.id, "alice", "Firefox")


def test_a_session_is_no_host_key_and_a_host_key_no_session(server, alice):
    with pytest.raises(AuthError):
        server.door.authenticate(sign_in(server))
    assert server.door.find_session(server.login("alice", "secret")) is None


def test_a_session_ends_in_all_processes_when_it_is_revoked(server, alice):
    key, other = sign_in(server), server.another_process()
    assert other.door.find_session(key)
    server.keys.revoke(hash_of(key, KeyKind.BROWSER))
    assert other.door.find_session(key) is None


def test_a_changed_password_ends_sessions_and_generated_passwords(server, alice):
    key = sign_in(server)
    password = server.door.add_device_password(key, "phone")
    server.users.change_password("alice", "other")
    assert server.door.find_session(key) is None
    with pytest.raises(AuthError):
        server.login("alice", password)


def test_signing_in_has_the_limits_of_syncs(server, alice):
    for _ in range(10):
        with pytest.raises(AuthError):
            sign_in(server, "wrong")
    with pytest.raises(RateLimited):
        server.login("alice", "secret")
    with pytest.raises(RateLimited):
        sign_in(server)


def test_a_generated_password_lets_a_device_in_that_is_named_after_it(server, alice):
    password = server.door.add_device_password(sign_in(server), "phone")
    key = server.login("alice", password)
    assert server.door.authenticate(key) == alice.id
    device, parent = (
        server.keys.find(hash_of(key)),
        next(record for record in server.keys.list(alice.id) if record.kind is KeyKind.PASSWORD),
    )
    assert (device.kind, device.name, device.parent) == (KeyKind.DEVICE, "phone", parent.hash)


def test_a_generated_password_may_be_typed_in_capitals_and_without_hyphens(server, alice):
    password = server.door.add_device_password(sign_in(server), "phone")
    assert server.login("alice", f" {password.upper().replace('-', ' ')}")


def test_a_generated_password_is_of_no_use_under_another_name_or_for_the_pages(server, alice):
    server.users.add("bob", "secret")
    password = server.door.add_device_password(sign_in(server), "phone")
    with pytest.raises(AuthError):
        server.login("bob", password)
    with pytest.raises(AuthError):
        sign_in(server, password)


def test_a_generated_password_is_not_in_the_file(server, alice, tmp_path):
    password = server.door.add_device_password(sign_in(server), "phone")
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert password.encode() not in stored
    assert password.replace("-", "").encode() not in stored


def test_a_revoked_generated_password_is_refused(server, alice):
    password = server.door.add_device_password(sign_in(server), "phone")
    (record,) = (one for one in server.keys.list(alice.id) if one.kind is KeyKind.PASSWORD)
    server.keys.revoke(record.hash)
    with pytest.raises(AuthError):
        server.login("alice", password)


def test_who_is_signed_out_can_make_no_password(server, alice):
    key = sign_in(server)
    server.keys.revoke(hash_of(key, KeyKind.BROWSER))
    with pytest.raises(AuthError):
        server.door.add_device_password(key, "phone")


def test_a_password_of_the_same_form_that_the_user_chose_works(server):
    server.users.add("alice", "abcd-efgh-ijkm-npqr-stuv")
    assert server.login("alice", "abcd-efgh-ijkm-npqr-stuv")
