"""Metrics that a small server does not move by itself: each by its cause, in this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.maintenance_loop import CompactionQueue
from app.ops import catalogue
from app.ops.assembly import Instruments
from app.ops.readiness import Readiness
from storage.errors import HeadMoved, Unavailable
from storage.heads.dynamodb import DynamoHeadStore
from storage.objects.s3 import S3ObjectStore
from tests.app.ops.scrape import moved, parse
from tests.support import aws
from tests.support.aws_wire import FAULTS, Wire
from tests.support.databases import DATABASE, World, rows_of
from tests.support.faults import Faults
from tests.support.records import head_update_of


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with aws.moto() as endpoint:
        yield endpoint


@pytest.fixture
def world(tmp_path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def samples(instruments: Instruments):
    return parse(instruments.meters.expose())


def test_a_working_copy_is_counted_by_where_it_came_from(instruments: Instruments, world: World) -> None:
    count = instruments.metering.count
    world.genesis(world.worker())
    before = samples(instruments)
    cold = world.worker("another host", count=count)
    assert len(rows_of(cold)) == 2000
    assert len(rows_of(cold)) == 2000
    found = moved(before, samples(instruments))
    assert found["ankisyncd_checkouts_total", "source=store"] == 1
    assert found["ankisyncd_checkouts_total", "source=copy"] == 1


def test_evictions_are_counted_and_the_cache_is_measured(instruments: Instruments, world: World) -> None:
    sizing = world.worker("sizing")
    world.genesis(sizing)
    size = sizing.cache_bytes()["bases"]
    store = world.worker(
        base_bytes=size * 5 // 2, copy_bytes=1, open_copies=0, count=instruments.metering.count
    )
    before = samples(instruments)
    users = [type(DATABASE)(f"user{number}", DATABASE.kind) for number in range(5)]
    for user in users:
        world.genesis(store, user)
    found = moved(before, samples(instruments))
    assert found["ankisyncd_cache_evictions_total", "cache=bases"] == 3
    assert store.cache_bytes()["bases"] == 2 * size


def test_calls_of_a_store_are_timed_and_their_errors_named(instruments: Instruments, world: World) -> None:
    faults = Faults()
    heads = instruments.metering.heads(faults.heads(world.heads))
    before = samples(instruments)
    assert heads.find(DATABASE) is None
    assert list(heads.list()) == []
    heads.advance_head(DATABASE, head_update_of(0, token=0))
    with pytest.raises(HeadMoved):
        heads.advance_head(DATABASE, head_update_of(5, token=0))
    faults.fail_next("find", landed=False)
    with pytest.raises(Unavailable):
        heads.find(DATABASE)
    found = moved(before, samples(instruments))
    for operation, times in {"find": 2, "list": 1, "advance_head": 2}.items():
        assert found["ankisyncd_store_seconds_count", f"operation={operation}", "store=heads"] == times
    errors = "ankisyncd_store_errors_total"
    assert found[errors, "error=HeadMoved", "operation=advance_head", "store=heads"] == 1
    assert found[errors, "error=Unavailable", "operation=find", "store=heads"] == 1


def test_retries_throttles_and_errors_of_aws_are_counted_by_operation(
    instruments: Instruments, engine: str
) -> None:
    dynamo, s3 = aws.dynamodb_client(engine), aws.s3_client(engine)
    for client in (dynamo, s3):
        instruments.metering.client(client)
    heads = DynamoHeadStore(dynamo, aws.new_table(engine))
    objects = S3ObjectStore(s3, aws.new_bucket(engine))
    wires = Wire(dynamo), Wire(s3)
    heads.find(DATABASE)  # the first call shows the way
    objects.put("a/b", b"content")
    by_name = {fault.name: fault for fault in FAULTS}
    before = samples(instruments)
    wires[0].fault("GetItem", by_name["throttled"])
    heads.find(DATABASE)
    wires[1].fault("PutObject", by_name["throttled"])
    objects.put("a/c", b"content")
    wires[1].fault("PutObject", by_name["500"])
    objects.put("a/d", b"content")
    found = moved(before, samples(instruments))
    get = ("operation=GetItem", "service=dynamodb")
    put = ("operation=PutObject", "service=s3")
    assert found["ankisyncd_aws_throttles_total", *get] == 1
    assert found["ankisyncd_aws_retries_total", *get] == 1
    assert found["ankisyncd_aws_throttles_total", *put] == 1
    assert found["ankisyncd_aws_retries_total", *put] == 2
    assert found["ankisyncd_aws_errors_total", "error=InternalError", *put] == 1


def test_compactions_that_wait_are_a_gauge(instruments: Instruments, world: World) -> None:
    due = CompactionQueue()
    objects, store = world.objects, world.worker()
    watch = instruments.watch(Readiness({}, lambda: 0.0), objects, store, lambda: len(due), world.nonce)
    due.add(DATABASE)
    due.age()
    due.add(type(DATABASE)("other", DATABASE.kind))
    watch.tick()
    assert samples(instruments)[catalogue.WAITING,] == 2
    due.take()
    watch.tick()
    assert samples(instruments)[catalogue.WAITING,] == 1


def test_a_file_that_a_worker_is_just_making_is_read_again(instruments: Instruments) -> None:
    new = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"], "counter_1.db")
    new.touch()
    remove = threading.Timer(0.05, new.unlink)
    remove.start()
    assert samples(instruments)
    remove.join()
