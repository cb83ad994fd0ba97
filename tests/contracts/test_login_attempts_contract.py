"""What every counter of login attempts must do; two processes share it."""

from __future__ import annotations

import threading

import boto3
import pytest
from moto import mock_aws

from app.auth.attempts import Limit, Limits, LocalCounts, LoginAttempts
from app.auth.aws.dynamodb import DynamoCounts
from app.auth.aws.table import DynamoTable
from app.auth.local.usersfile import UsersFile
from app.errors import RateLimited
from storage.types import run_inline
from tests.support.clock import Clock

LIMITS = Limits(
    pair=(Limit(3, 20_000), Limit(5, 20_000), Limit(7, 20_000)),
    address=(Limit(6, 10_000), Limit(8, 10_000), Limit(10, 10_000)),
    name=Limit(12, 30_000),
)
HOME, CAFE = "192.0.2.1", "198.51.100.7"


class OneAtATime:
    """moto looks at a condition and writes in two steps; here no other thread comes between them."""

    def __init__(self, client) -> None:
        self.client, self.lock = client, threading.Lock()

    def __getattr__(self, name):
        def call(**parameters):
            with self.lock:
                return getattr(self.client, name)(**parameters)

        return call


@pytest.fixture
def clock():
    return Clock(1_700_000_040_000)


@pytest.fixture(params=["local", "dynamodb"])
def pair(request, tmp_path, monkeypatch, clock):
    """The counter as two processes see it."""
    if request.param == "local":
        yield tuple(
            LoginAttempts(LocalCounts(UsersFile(tmp_path / "users.sqlite", run_inline)), clock, LIMITS)
            for _ in range(2)
        )
        return
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        client = boto3.client("dynamodb", region_name="eu-central-1")
        client.create_table(
            TableName="heads",
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        )
        table = DynamoTable(OneAtATime(client), "heads")
        yield tuple(LoginAttempts(DynamoCounts(table), clock, LIMITS) for _ in range(2))


def refused(attempts, name="alice", address=HOME) -> int:
    with pytest.raises(RateLimited) as caught:
        attempts.admit(name, address)
    return caught.value.retry_after_s


def test_processes_count_together_and_say_how_long_to_wait(pair, clock):
    one, other = pair
    one.admit("alice", HOME)
    other.admit("alice", HOME)
    one.admit("alice", HOME)
    wait_s = refused(other)
    assert wait_s == 20
    clock.now_ms += wait_s * 1000
    one.admit("alice", HOME)


def test_other_addresses_and_names_are_not_concerned(pair):
    one, other = pair
    for _ in range(3):
        one.admit("alice", HOME)
    other.admit("alice", CAFE)
    other.admit("bob", HOME)


def test_all_names_of_an_address_count_together(pair):
    one, other = pair
    for number in range(6):
        one.admit(f"name{number}", HOME)
    refused(other, "alice")
    other.admit("alice", CAFE)


def test_what_the_address_refuses_does_not_count_for_the_name(pair):
    one, other = pair
    kept = [one.admit(f"name{number}", HOME) for number in range(6)]
    for _ in range(5):
        refused(one, "alice")
    for attempt in kept[:3]:
        one.withdraw(attempt)
    for _ in range(3):
        other.admit("alice", HOME)


def test_success_forgets_the_pair_and_gives_the_address_its_place_back(pair):
    one, other = pair
    for _ in range(20):
        other.succeeded(one.admit("alice", HOME))
    for _ in range(2):
        one.admit("alice", HOME)
    other.succeeded(one.admit("alice", HOME))
    for _ in range(3):
        one.admit("alice", HOME)


def test_a_withdrawn_attempt_never_was(pair):
    one, other = pair
    for _ in range(10):
        other.withdraw(one.admit("alice", HOME))
    for _ in range(3):
        one.admit("alice", HOME)
    refused(other)


def test_addresses_of_one_48_count_together(pair):
    one, other = pair
    for number in range(7):
        one.admit("alice", f"2001:db8:0:{number:x}00::1")
    refused(other, "alice", "2001:db8:0:ff00::1")
    other.admit("alice", "2001:db8:1::1")
    other.admit("bob", "2001:db8:0:ff00::1")


def test_a_name_under_attack_is_delayed_everywhere(pair):
    one, other = pair
    for number in range(12):
        assert one.admit("alice", f"198.51.100.{number}").delay_ms == 0
    assert other.admit("alice", HOME).delay_ms > 0
    assert other.admit("bob", HOME).delay_ms == 0


def test_parallel_attempts_do_not_pass_the_limit_together(pair):
    outcomes = []

    def attempt(attempts) -> None:
        try:
            attempts.admit("alice", HOME)
            outcomes.append("admitted")
        except RateLimited:
            outcomes.append("refused")

    threads = [threading.Thread(target=attempt, args=(pair[number % 2],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("admitted") <= 3
    assert outcomes.count("refused") >= 5


def test_after_a_pause_one_more_is_let_in(pair, clock):
    one, other = pair
    for _ in range(3):
        one.admit("alice", HOME)
    for _ in range(3):
        clock.now_ms += refused(other) * 1000
        other.admit("alice", HOME)
        refused(one)


def test_counts_from_a_clock_that_was_ahead_limit_nobody(pair, clock):
    one, other = pair
    clock.now_ms += 3_600_000
    for _ in range(3):
        one.admit("alice", HOME)
    clock.now_ms -= 3_600_000
    other.admit("alice", HOME)
