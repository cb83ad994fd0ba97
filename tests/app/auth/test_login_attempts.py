"""How many wrong passwords are listened to, with several processes and a clock turned by hand."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from app.auth.attempts import Limit, Limits, networks_of, region_of
from app.errors import AuthError, RateLimited, ServiceUnavailable

LIMITS = Limits(
    pair=(Limit(3, 20_000), Limit(5, 20_000), Limit(7, 20_000)),
    long=Limit(30, 90_000),
    address=(Limit(6, 10_000), Limit(8, 10_000), Limit(10, 10_000)),
    name=Limit(12, 30_000),
    delay_step_ms=100,
    longest_delay_ms=3_000,
)
HOME, CAFE = "192.0.2.1", "198.51.100.7"


@pytest.fixture
def limited(make_server):
    return server_of(make_server, LIMITS)


@pytest.fixture
def server(make_server):
    return server_of(make_server, Limits())


def server_of(make_server, limits: Limits):
    """With a quick comparison instead of a slow hash."""
    server = make_server(limits=limits, verify=lambda _text, password: password == "right")
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


def test_after_the_limit_one_attempt_is_let_in_each_pause(limited, clock):
    for _ in range(3):
        fail(limited)
    with pytest.raises(RateLimited) as caught:
        limited.login("alice", "right", HOME)
    assert caught.value.retry_after_s == 20
    clock.pass_s(15)
    with pytest.raises(RateLimited) as caught:
        limited.login("alice", "right", HOME)
    assert caught.value.retry_after_s == 5
    clock.pass_s(5)
    fail(limited)
    with pytest.raises(RateLimited) as caught:
        limited.login("alice", "right", HOME)
    assert caught.value.retry_after_s == 20


def test_whoever_mistyped_ten_times_gets_in_within_half_a_minute(server, clock):
    for _ in range(10):
        fail(server)
    with pytest.raises(RateLimited):
        server.login("alice", "right")
    clock.pass_s(30)
    assert server.login("alice", "right")


def test_guessing_on_for_hours_is_limited_more(server, clock):
    """Verified are a burst and one in 90 s, though no pause is longer than that."""
    admitted = 0
    for _ in range(4 * 60 * 3):
        clock.pass_s(20)
        with suppress(RateLimited):
            server.attempts.admit("alice", HOME)
            admitted += 1
    assert admitted <= 60 + 4 * 60 * 60 / 90 + 1


def test_a_client_that_keeps_asking_is_let_in_when_the_pause_is_over(limited, clock):
    for _ in range(3):
        fail(limited)
    for _ in range(19):
        clock.pass_s(1)
        with pytest.raises(RateLimited):
            limited.login("alice", "right", HOME)
    clock.pass_s(1)
    assert limited.login("alice", "right", HOME)


@pytest.mark.parametrize(
    ("network", "allowed"), [("2001:db8::{:x}", 3), ("2001:db8:0:{:x}::1", 5), ("2001:db8:0:{:x}00::1", 7)]
)
def test_addresses_of_one_customer_count_together(limited, network, allowed):
    """A /64, /56 or /48; each may be tried from a little more often than the one within."""
    for number in range(allowed):
        fail(limited, address=network.format(number))
    with pytest.raises(RateLimited):
        limited.login("alice", "right", network.format(allowed))
    limited.login("alice", "right", "2001:db8:1::1")


def test_a_48_is_worth_no_more_than_forty_guesses_at_once(server):
    refused = 0
    for number in range(60):
        with pytest.raises((AuthError, RateLimited)) as caught:
            server.login("alice", "wrong", f"2001:db8:0:{number + 10:x}::1")
        refused += caught.type is RateLimited
    assert refused >= 20


def test_a_name_under_attack_is_delayed_and_never_refused(limited, clock):
    delays = []
    for number in range(60):
        before_ms = clock()
        fail(limited, address=f"198.51.100.{number}")
        delays.append(clock() - before_ms)
    assert delays[:12] == [0] * 12
    assert delays[12:15] == [100, 200, 300]
    assert max(delays) == 3000
    before_ms = clock()
    assert limited.login("alice", "right", HOME)
    assert clock() - before_ms == 3000
    clock.pass_s(3600)
    before_ms = clock()
    limited.login("alice", "right", HOME)
    assert clock() == before_ms


def test_right_passwords_are_never_delayed(limited, clock):
    before_ms = clock()
    for number in range(50):
        limited.login("alice", "right", f"198.51.100.{number}")
    assert clock() == before_ms


def test_a_name_counts_in_any_case(limited):
    """A pool may take it in any; two local users of such names share the count of one address."""
    for name in ("alice", "ALICE", "Alice"):
        fail(limited, name=name)
    with pytest.raises(RateLimited):
        limited.login("aLice", "x", HOME)


def test_a_stranger_elsewhere_cannot_lock_the_owner_out(limited):
    for _ in range(3):
        fail(limited, address=CAFE)
    with pytest.raises(RateLimited):
        limited.login("alice", "right", CAFE)
    assert limited.login("alice", "right", HOME)


def test_a_right_password_resets_the_pair(limited):
    for _ in range(2):
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
        fail(limited, name=f"n{number}", address=f"192.0.2.{number}")
    clock.pass_s(90)
    fail(limited, address=CAFE)
    assert limited.file.read("SELECT count(*) FROM counts") == [(2,)]


def test_a_count_that_cannot_be_taken_back_keeps_nobody_out(limited, monkeypatch):
    change = limited.attempts._counts.change
    calls = []

    def fail_later(*arguments):
        calls.append(arguments)
        if len(calls) > 2:
            raise ServiceUnavailable("away")
        return change(*arguments)

    monkeypatch.setattr(limited.attempts._counts, "change", fail_later)
    assert limited.login("alice", "right", HOME)
    assert len(calls) == 3


def test_a_clock_that_was_set_back_locks_nobody_out(limited, clock):
    for _ in range(3):
        fail(limited)
    clock.pass_s(-3600)
    assert limited.login("alice", "right", HOME)


@pytest.mark.parametrize(
    ("address", "networks", "region"),
    [
        ("192.0.2.1", ["192.0.2.1"], "192.0.0.0/16"),
        (
            "2001:db8:1:23f:3:4:5:6",
            ["2001:db8:1:23f::/64", "2001:db8:1:200::/56", "2001:db8:1::/48"],
            "2001:db8::/32",
        ),
        ("unix", [""], ""),
        ("", [""], ""),
    ],
)
def test_an_address_counts_with_its_networks(address, networks, region):
    assert list(networks_of(address)) == networks
    assert region_of(address) == region
