"""Keys of a user in DynamoDB: none is usable without being listed, whatever dies or happens in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from botocore.exceptions import EndpointConnectionError

from app.auth.aws.dynamodb import MOST_KEYS, DynamoHostKeys
from app.auth.aws.key_index import KeyRings
from app.auth.aws.table import DynamoTable
from app.auth.hostkeys import KeyRecord
from app.errors import ServiceUnavailable
from storage.heads.dynamodb import table_definition
from tests.contracts.test_host_keys import ALICE, BOB, DAY_MS, make_record
from tests.support.clock import Clock

WRITES = {"put_item", "update_item", "delete_item"}


class Client:
    """The SDK's client; a chosen call gets no answer, and may have landed or not."""

    def __init__(self, client: Any) -> None:
        self.client, self.calls, self.before = client, [], lambda _name: None
        self.doomed: int | None = None
        self.landed = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(**parameters: Any) -> Any:
            self.calls.append(name)
            self.before(name)
            is_doomed = self.doomed == len(self.calls)
            answer = None if is_doomed and not self.landed else getattr(self.client, name)(**parameters)
            if is_doomed:
                raise EndpointConnectionError(endpoint_url="nowhere")
            return answer

        return call


@dataclass
class Place:
    client: Client
    clock: Clock

    def keys(self, **changes: Any) -> DynamoHostKeys:
        """Another process, which remembers nothing."""
        return DynamoHostKeys(DynamoTable(self.client, "heads"), self.clock, idle_ms=10 * DAY_MS, **changes)

    @property
    def rings(self) -> KeyRings:
        return KeyRings(DynamoTable(self.client, "heads"))

    def items(self, prefix: str) -> list[dict[str, Any]]:
        found = self.client.client.scan(TableName="heads")["Items"]
        return [item for item in found if item["pk"]["S"].startswith(prefix)]

    def forget_rings(self) -> None:
        """The table as a release without rings has left it."""
        for item in self.items("keyring#"):
            self.client.client.delete_item(TableName="heads", Key={"pk": item["pk"]})
        for item in self.items("hostkey#"):
            item.pop("listed")
            self.client.client.put_item(TableName="heads", Item=item)


@pytest.fixture
def place(mocked) -> Iterator[Place]:
    client = mocked.client("dynamodb")
    client.create_table(**table_definition("heads"))
    yield Place(Client(client), Clock())
    client.delete_table(TableName="heads")


def assert_listed(place: Place, records: list[KeyRecord]) -> None:
    """Every key that opens something is in both lists, and no other."""
    keys = place.keys()
    usable = {record.hash for record in records if keys.find(record.hash)}
    assert {record.hash for record in keys.list()} == usable
    assert {record.hash for user in (ALICE, BOB) for record in keys.list(user)} == usable


def script(place: Place, records: list[KeyRecord]) -> list[Callable[[], object]]:
    keys = place.keys(most_keys=3)
    first, second, third, bobs, *more = records
    return [
        lambda: keys.add(first),
        lambda: keys.add(bobs),
        lambda: keys.add(second),
        lambda: keys.touch(msgspec.structs.replace(first, used_ms=place.clock())),
        lambda: keys.revoke(second.hash),
        lambda: keys.add(third),
        *(lambda record=record: keys.add(record) for record in more),
        lambda: list(keys.list()),
        lambda: keys.revoke_all(ALICE),
        lambda: keys.revoke(bobs.hash),
    ]


def make_records(clock: Clock) -> list[KeyRecord]:
    return [make_record(clock, BOB if number == 3 else ALICE) for number in range(7)]


@pytest.mark.parametrize("landed", [False, True], ids=["lost", "landed"])
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.thorough)])
def test_whichever_call_fails_no_usable_key_is_unlisted(place, every, landed):
    records = make_records(place.clock)
    for step in script(place, records):
        step()
        assert_listed(place, records)
    place.client.calls.clear()
    for step in script(place, records):
        step()
    total = len(place.client.calls)
    place.client.landed = landed
    failures = 0
    for number in range(1, total + 1, every):
        place.client.calls.clear()
        failed = 0
        for step in script(place, records):
            place.client.doomed = number if not failed else None
            try:
                step()
            except ServiceUnavailable:
                failed += 1
            if failed:  # what the steps before it leave was seen above
                before, place.client.doomed = place.client.calls[:], None
                assert_listed(place, records)
                place.client.calls[:] = before
        assert failed <= 1
        failures += failed
        place.keys().revoke_all(ALICE)
        place.keys().revoke_all(BOB)
    assert failures > total // every // 2


def test_a_login_that_dies_before_its_key_leaves_an_entry_that_goes_a_day_later(place):
    place.client.before = lambda name: dies(name == "put_item")
    with pytest.raises(KeyboardInterrupt):
        place.keys().add(make_record(place.clock))
    place.client.before = lambda _name: None
    assert list(place.keys().list()) == []
    assert len(place.rings.find(ALICE)) == 1
    place.clock.now_ms += DAY_MS + 1
    assert list(place.keys().list()) == []
    assert place.items("keyring#") == []


def dies(now: bool) -> None:
    if now:
        raise KeyboardInterrupt


@pytest.mark.parametrize("meddle", ["list", "revoke_all", "thin_out"])
def test_a_key_is_listed_although_others_clear_up_in_the_middle_of_its_login(place, meddle):
    record, other = make_record(place.clock), place.keys(most_keys=1)
    place.keys().add(make_record(place.clock))

    def between(name: str) -> None:
        if name == "put_item":
            place.client.before = lambda _name: None
            if meddle == "list":
                list(other.list())
            elif meddle == "revoke_all":
                other.revoke_all(ALICE)
            else:
                other.add(make_record(place.clock))

    place.client.before = between
    place.keys().add(record)
    assert place.keys().find(record.hash) == record
    assert record in list(place.keys().list(ALICE))
    assert record in list(place.keys().list())


def test_a_key_revoked_by_a_process_that_dies_then_is_gone_from_all_lists(place):
    record = make_record(place.clock)
    place.keys().add(record)
    place.client.before = lambda name: dies(name == "update_item")
    with pytest.raises(KeyboardInterrupt):
        place.keys().revoke(record.hash)
    place.client.before = lambda _name: None
    assert_listed(place, [record])
    place.clock.now_ms += DAY_MS + 1
    list(place.keys().list(ALICE))
    assert place.items("keyring#") == []


def test_keys_from_before_there_were_rings_work_and_are_listed_once_they_are_touched(place):
    old, other = make_record(place.clock), make_record(place.clock)
    for record in (old, other):
        place.keys().add(record)
    place.forget_rings()
    keys = place.keys()
    assert keys.find(old.hash) == old
    assert list(keys.list(ALICE)) == []
    keys.touch(old)
    assert list(place.keys().list(ALICE)) == list(place.keys().list()) == [old]
    writes = [name for name in place.client.calls if name in WRITES]
    keys.touch(old)
    assert [name for name in place.client.calls if name in WRITES] == [*writes, "update_item"]
    assert keys.revoke(other.hash)
    assert keys.revoke_all(ALICE) == 1
    assert keys.find(old.hash) is None


def test_a_revoked_key_is_not_entered_again_by_a_touch(place):
    record = make_record(place.clock)
    place.keys().add(record)
    place.keys().revoke(record.hash)
    place.keys().touch(record)
    assert place.items("") == []


def test_with_the_last_key_the_ring_is_gone(place):
    record = make_record(place.clock)
    place.keys().add(record)
    assert list(place.rings.list_users()) == [ALICE]
    place.keys().revoke(record.hash)
    assert place.items("") == []


def test_a_login_that_enters_while_an_empty_ring_is_forgotten_stays_entered(place):
    first, second = make_record(place.clock), make_record(place.clock)
    place.keys().add(first)
    seen = []

    def between(name: str) -> None:
        seen.append(name)
        if seen == ["delete_item", "update_item", "delete_item"]:
            place.keys().add(second)

    place.client.before = between
    place.keys().revoke(first.hash)
    assert len(seen) > 3
    assert_listed(place, [first, second])
    assert list(place.keys().list(ALICE)) == [second]


def test_who_logs_in_without_end_loses_the_keys_that_were_used_longest_ago(place):
    keys = place.keys(most_keys=4)
    records = [make_record(place.clock) for _ in range(5)]
    for record in records[:4]:
        keys.add(record)
    keys.touch(msgspec.structs.replace(records[0], used_ms=place.clock() + 1000))
    keys.add(records[4])
    assert {record.hash for record in place.keys().list(ALICE)} == {records[i].hash for i in (0, 3, 4)}
    assert place.keys().find(records[1].hash) is None
    assert len(place.rings.find(ALICE)) == 3


def test_a_full_ring_is_far_below_the_limit_of_an_item(place):
    rings = place.rings
    for _ in range(20):
        rings.enter(make_record(place.clock))
    (item,) = place.items("keyring#")
    assert [len(bytes(value)) for value in item["keys"]["BS"]] == [40] * 20
    assert 40 * MOST_KEYS < 400_000 // 4


def test_more_keys_than_one_call_reads_are_listed(place):
    records = [make_record(place.clock) for _ in range(101)] + [make_record(place.clock, BOB)]
    for record in records:
        place.keys().add(record)
    assert list(place.keys().list()) == records
    assert list(place.keys().list(ALICE)) == records[:-1]


def test_what_a_throttled_table_leaves_out_is_asked_for_again(place):
    records = [make_record(place.clock) for _ in range(3)]
    for record in records:
        place.keys().add(record)
    inner, asked = place.client.client, []

    class Throttled:
        def __getattr__(self, name):
            return getattr(inner, name)

        def batch_get_item(self, **request):
            whole = request["RequestItems"]["heads"]
            wanted = whole["Keys"]
            asked.append(len(wanted))
            answer = inner.batch_get_item(RequestItems={"heads": {**whole, "Keys": wanted[:1]}})
            left = {"heads": {"Keys": wanted[1:]}} if wanted[1:] else {}
            return answer | {"UnprocessedKeys": left}

    place.client.client = Throttled()
    assert list(place.keys().list(ALICE)) == records
    assert asked == [3, 2, 1]
