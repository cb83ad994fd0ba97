"""How many wrong passwords are listened to, with several processes and a clock turned by hand."""

from __future__ import annotations

import threading

import pytest

from app.auth.attempts import Limits, network_of
from app.errors import AuthError, RateLimited

LIMITS = Limits(pair=3, address=6, window_ms=60_000)
HOME, CAFE = "192.0.2.1", "198.51.100.7"


@pytest.fixture
def limited(make_server):
    server = make_server(limits=LIMITS)
    server.users.add("alice", "right")
    server.verified.clear()
    return server


def fail(server, name="alice", address=HOME):
    with pytest.raises(AuthError):
        server.login(name, "wrong", address)


def test_after_the_last_allowed_wrong_password_nothing_is_verified_any_more(limited):
    for _ in range(3):
        fail(limited)
    for password in ("wrong", "right"):
        with pytest.raises(RateLimited):
            limited.login("alice", password, HOME)
    assert len(limited.verified) == 3


def test_the_window_slides_and_says_how_long_to_wait(limited, clock):
    for _ in range(3):
        fail(limited)
        clock.pass_s(10)
    with pytest.raises(RateLimited) as caught:
        limited.login("alice", "right", HOME)
    assert caught.value.retry_after_s == 30
    clock.pass_s(30)
    fail(limited)
    with pytest.raises(RateLimited) as caught:
        limited.login("alice", "right", HOME)
    assert caught.value.retry_after_s == 10


def test_a_client_that_keeps_asking_is_let_in_when_the_time_is_up(limited, clock):
    for _ in range(3):
        fail(limited)
    for _ in range(59):
        clock.pass_s(1)
        with pytest.raises(RateLimited):
            limited.login("alice", "right", HOME)
    clock.pass_s(1)
    assert limited.login("alice", "right", HOME)


def test_a_stranger_elsewhere_cannot_lock_the_owner_out(limited):
    for _ in range(3):
        fail(limited, address=CAFE)
    with pytest.raises(RateLimited):
        limited.login("alice", "right", CAFE)
    assert limited.login("alice", "right", HOME)


def test_a_right_password_resets_the_pair(limited):
    for _ in range(4):
        fail(limited)
        fail(limited)
        limited.login("alice", "right", HOME)


def test_trying_many_names_from_one_address_is_limited_too(limited):
    for number in range(6):
        fail(limited, name=f"name{number}")
    with pytest.raises(RateLimited):
        limited.login("alice", "right", HOME)
    assert limited.login("alice", "right", CAFE)


def test_right_passwords_of_a_whole_school_do_not_use_up_its_address(limited):
    for _ in range(20):
        limited.login("alice", "right", HOME)


def test_processes_count_together(limited):
    fail(limited)
    fail(limited.another_process())
    fail(limited.another_process())
    with pytest.raises(RateLimited):
        limited.login("alice", "right", HOME)


def test_attempts_made_at_the_same_time_do_not_pass_the_limit_together(limited):
    servers = [limited.another_process() for _ in range(8)]
    outcomes = []

    def try_one(server) -> None:
        try:
            server.attempts.admit("alice", HOME)
            outcomes.append("admitted")
        except RateLimited:
            outcomes.append("refused")

    threads = [threading.Thread(target=try_one, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["admitted"] * 3 + ["refused"] * 5


def test_other_spellings_of_a_name_count_as_the_same(limited):
    for name in ("Zoë", "Zoe\u0308", "Zoë"):
        fail(limited, name=name)
    with pytest.raises(RateLimited):
        limited.login("Zoe\u0308", "x", HOME)


def test_neither_names_nor_addresses_are_stored(limited, tmp_path):
    fail(limited, name="a password typed in the wrong field")
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"wrong field" not in stored
    assert HOME.encode() not in stored


def test_old_attempts_are_forgotten(limited, clock):
    for number in range(5):
        fail(limited, name=f"n{number}")
    clock.pass_s(60)
    fail(limited)
    assert limited.file.read("SELECT count(*) FROM attempts") == [(1,)]


def test_a_clock_that_was_set_back_locks_nobody_out(limited, clock):
    for _ in range(3):
        fail(limited)
    clock.pass_s(-3600)
    assert limited.login("alice", "right", HOME)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_an_ipv6_network_counts_as_one_address(address, network):
    assert network_of(address) == network
