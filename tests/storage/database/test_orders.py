"""The operator's orders: one record that all workers read, changed by whoever is an operator."""

from __future__ import annotations

import msgspec
import pytest

from storage.database.maintenance.mark import list_databases
from storage.database.orders import ORDERS, Orders, OrdersRecord
from storage.errors import Corrupt, HeadMoved
from storage.heads.memory import MemoryHeadStore
from tests.support.records import head_update_of


@pytest.fixture
def heads():
    return MemoryHeadStore()


@pytest.fixture
def record(heads):
    counter = iter(range(1000))
    return OrdersRecord(heads, lambda: 1_700_000_000_000, lambda: f"nonce{next(counter)}")


def closed(text):
    return lambda orders: msgspec.structs.replace(orders, closed_text=text)


def test_a_store_without_the_record_has_no_orders(record):
    assert record.read() == Orders()


def test_the_last_order_is_in_force_however_many_there_were(record):
    for number in range(20):
        record.change(closed(f"text {number}"))
    assert record.read().closed_text == "text 19"


def test_the_record_is_no_database_of_a_user(heads, record):
    record.change(closed("text"))
    assert list(list_databases(heads)) == []


def test_an_order_that_meets_another_one_keeps_both(heads, record):
    other = OrdersRecord(heads, lambda: 0, lambda: "other")

    def meet(orders):
        if not orders.closed_since_ms:
            other.change(lambda found: msgspec.structs.replace(found, closed_since_ms=7))
        return msgspec.structs.replace(orders, closed_text="text")

    assert record.change(meet) == Orders("text", 7)
    assert record.read() == Orders("text", 7)


def test_an_order_that_always_comes_too_late_is_an_error(heads, record):
    other = OrdersRecord(heads, lambda: 0, iter(map(str, range(99))).__next__)

    def meet(orders):
        other.change(closed("theirs"))
        return orders

    with pytest.raises(HeadMoved):
        record.change(meet)
    assert record.read().closed_text == "theirs"


def test_fields_of_a_later_version_are_passed_over(heads, record):
    later = msgspec.msgpack.encode({"closed_text": "text", "later": [1]})
    heads.advance_head(ORDERS, msgspec.structs.replace(head_update_of(0, 0), answer=later))
    assert record.read() == Orders("text")


def test_what_cannot_be_read_is_no_order(heads, record):
    heads.advance_head(ORDERS, msgspec.structs.replace(head_update_of(0, 0), answer=b"\xff"))
    with pytest.raises(Corrupt):
        record.read()
