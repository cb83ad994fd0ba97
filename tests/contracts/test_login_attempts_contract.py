"""What every counter of login attempts must do; two processes share it."""

from __future__ import annotations

import boto3
import pytest
from moto import mock_aws

from app.auth.attempts import Limits, LocalLoginAttempts
from app.auth.dynamodb import DynamoLoginAttempts
from app.auth.dynamotable import DynamoTable
from app.auth.usersfile import UsersFile
from app.errors import RateLimited
from storage.types import run_here

LIMITS = Limits(pair=3, address=6, window_ms=60_000)
HOME, CAFE = "192.0.2.1", "198.51.100.7"


class Clock:
    now_ms = 1_700_000_040_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["local", "dynamodb"])
def pair(request, tmp_path, monkeypatch, clock):
    """The counter as two processes see it."""
    if request.param == "local":
        yield tuple(
            LocalLoginAttempts(UsersFile(tmp_path / "users.sqlite", run_here), clock, LIMITS)
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
        yield tuple(DynamoLoginAttempts(DynamoTable(client, "heads"), clock, LIMITS) for _ in range(2))


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
    assert 1 <= wait_s <= 60
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
