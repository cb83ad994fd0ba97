"""What every place of host keys must do; `other` is the same place as another process sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import boto3
import msgspec
import pytest
from moto import mock_aws

from app.auth.aws.dynamodb import DynamoHostKeys
from app.auth.aws.s3_hostkeys import S3HostKeys
from app.auth.aws.table import DynamoTable
from app.auth.hostkeys import HostKeys, KeyKind, KeyRecord, hash_of, new_key, seal, unseal
from app.auth.local.hostkeys import LocalHostKeys
from app.auth.local.usersfile import UsersFile
from storage.heads.dynamodb import table_definition
from storage.types import UserId, run_inline
from tests.support.clock import Clock

ALICE, BOB = UserId("alice"), UserId("bob")
DAY_MS = 24 * 60 * 60 * 1000


@dataclass
class Place:
    keys: HostKeys
    other: HostKeys
    clock: Clock
    settle: Callable[[], None] = lambda: None
    """Lets the time pass that this backend may be late."""


@pytest.fixture(params=["local", "dynamodb", "s3"])
def place(request, tmp_path, monkeypatch) -> Iterator[Place]:
    clock = Clock()
    if request.param == "local":
        keys, other = (LocalHostKeys(UsersFile(tmp_path / "users.sqlite", run_inline)) for _ in range(2))
        yield Place(keys, other, clock)
        return
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        if request.param == "s3":
            client = boto3.client("s3", region_name="us-east-1")
            client.create_bucket(Bucket="keys")
            keys, other = (S3HostKeys(client, "keys", "a/", clock, idle_ms=10 * DAY_MS) for _ in range(2))
        else:
            table = make_table()
            keys, other = (DynamoHostKeys(table, clock, idle_ms=10 * DAY_MS) for _ in range(2))

        def settle() -> None:
            clock.now_ms += 30_000

        yield Place(keys, other, clock, settle)


def make_table() -> DynamoTable:
    client = boto3.client("dynamodb", region_name="eu-central-1")
    client.create_table(**table_definition("heads"))
    return DynamoTable(client, "heads")


def make_record(clock: Clock, user: UserId = ALICE, key: str | None = None) -> KeyRecord:
    now_ms = clock()
    clock.now_ms += 1
    return KeyRecord(
        hash_of(key or new_key(user)), user, "anki,26.9", now_ms, now_ms, now_ms, b"\0sealed\xff"
    )


def test_a_key_that_was_added_is_found_everywhere_as_it_was(place):
    record = make_record(place.clock)
    place.keys.add(record)
    assert place.keys.find(record.hash) == record
    assert place.other.find(record.hash) == record


def test_a_key_of_another_kind_is_found_as_it_was(place):
    for kind in KeyKind:
        record = msgspec.structs.replace(
            make_record(place.clock), kind=kind, name="my phone \U0001f4f1", parent=b"\0\xff"
        )
        place.keys.add(record)
        assert place.keys.find(record.hash) == record
        assert place.other.find(record.hash) == record
        assert record in list(place.other.list(ALICE))


def test_an_unknown_key_is_not_found(place):
    assert place.keys.find(hash_of("nobody's")) is None


def test_a_key_is_listed_once(place):
    record = make_record(place.clock)
    place.keys.add(record)
    assert [found.hash for found in place.other.list()] == [record.hash]


def test_a_revoked_key_is_gone_at_once_here_and_in_time_elsewhere(place):
    record = make_record(place.clock)
    place.keys.add(record)
    place.other.find(record.hash)
    assert place.keys.revoke(record.hash)
    assert place.keys.find(record.hash) is None
    place.settle()
    assert place.other.find(record.hash) is None
    assert not place.keys.revoke(record.hash)


def test_touch_stores_times_and_seal_and_leaves_the_rest(place):
    record = make_record(place.clock)
    place.keys.add(record)
    place.other.find(record.hash)
    later = msgspec.structs.replace(record, used_ms=place.clock(), checked_ms=place.clock(), sealed=b"new")
    place.keys.touch(later)
    assert place.keys.find(record.hash) == later
    place.settle()
    assert place.other.find(record.hash) == later


def test_touch_does_not_revive_a_revoked_key(place):
    record = make_record(place.clock)
    place.keys.add(record)
    place.keys.find(record.hash)
    place.other.revoke(record.hash)
    place.keys.touch(record)
    assert place.keys.find(record.hash) is None
    assert place.other.find(record.hash) is None


def test_list_is_by_age_and_by_user(place):
    records = [make_record(place.clock, user) for user in (ALICE, BOB, ALICE)]
    for record in reversed(records):
        place.keys.add(record)
    assert list(place.other.list()) == records
    assert list(place.other.list(ALICE)) == [records[0], records[2]]
    assert list(place.other.list(UserId("nobody"))) == []


def test_revoke_all_takes_the_keys_of_one_user(place):
    records = [make_record(place.clock, user) for user in (ALICE, BOB, ALICE)]
    for record in records:
        place.keys.add(record)
    assert place.keys.revoke_all(ALICE) == 2
    assert list(place.other.list()) == [records[1]]
    assert place.keys.revoke_all(ALICE) == 0


@pytest.fixture
def dynamo(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        yield make_table()


@dataclass
class CountingTable:
    table: DynamoTable
    reads: int = 0

    def find(self, key: str):
        self.reads += 1
        return self.table.find(key)

    def __getattr__(self, name: str):
        return getattr(self.table, name)


def test_a_sync_of_seven_requests_reads_its_key_once(dynamo):
    clock, table = Clock(), CountingTable(dynamo)
    keys = DynamoHostKeys(table, clock)
    record = make_record(clock)
    keys.add(record)
    for _ in range(7):
        keys.find(record.hash)
        clock.now_ms += 1000
    assert table.reads == 1


def test_unknown_keys_are_not_remembered_so_that_a_new_one_works_at_once(dynamo):
    clock = Clock()
    keys, other = (DynamoHostKeys(dynamo, clock) for _ in range(2))
    record = make_record(clock)
    assert keys.find(record.hash) is None
    other.add(record)
    assert keys.find(record.hash) == record


def test_what_a_process_remembers_is_bounded(dynamo):
    clock, table = Clock(), CountingTable(dynamo)
    keys = DynamoHostKeys(table, clock, remember_count=2)
    records = [make_record(clock) for _ in range(3)]
    for record in records:
        keys.add(record)
        keys.find(record.hash)
    assert table.reads == 3
    keys.find(records[2].hash)
    assert table.reads == 3
    keys.find(records[0].hash)
    assert table.reads == 4


def test_a_key_that_dynamodb_forgot_to_remove_has_ended_all_the_same(dynamo):
    clock = Clock()
    keys = DynamoHostKeys(dynamo, clock, idle_ms=10 * DAY_MS)
    record = make_record(clock)
    keys.add(record)
    clock.now_ms += 9 * DAY_MS
    keys.touch(msgspec.structs.replace(record, used_ms=clock()))
    clock.now_ms += 9 * DAY_MS
    assert keys.find(record.hash)
    clock.now_ms += 1 * DAY_MS
    assert keys.find(record.hash) is None
    assert list(keys.list()) == []


def test_the_item_has_neither_key_nor_proof_in_clear(dynamo):
    clock, key = Clock(), new_key(ALICE)
    keys = DynamoHostKeys(dynamo, clock)
    keys.add(
        msgspec.structs.replace(make_record(clock, key=key), sealed=seal(key, ALICE, b"the-refresh-token"))
    )
    item = dynamo.find("hostkey#" + hash_of(key).hex())
    assert key not in repr(item)
    assert "the-refresh-token" not in repr(item)
    assert unseal(key, ALICE, item["sealed"]["B"]) == b"the-refresh-token"
    assert unseal(key, BOB, item["sealed"]["B"]) is None
    assert unseal(new_key(ALICE), ALICE, item["sealed"]["B"]) is None
    assert unseal(key, ALICE, b"short") is None
