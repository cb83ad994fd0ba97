"""What only the head store in a bucket does: its requests, its format, stores that differ."""

from __future__ import annotations

import uuid

import pytest

from storage.errors import Conflict, Corrupt, StorageError
from storage.heads.s3 import S3HeadStore
from tests.support import aws
from tests.support.aws_wire import FLIPPED, Wire
from tests.support.records import collection_of, head_update_of, journal_entry, new_session


@pytest.fixture
def bucket(moto_bucket):
    return moto_bucket[1]


@pytest.fixture
def client(moto_endpoint):
    return aws.s3_client(moto_endpoint)


@pytest.fixture
def wire(client):
    return Wire(client)


@pytest.fixture
def heads(client, bucket, wire):
    return S3HeadStore(client, bucket)


@pytest.fixture
def database():
    return collection_of(f"s-{uuid.uuid4().hex}")


def key(database):
    return f"heads/{database.user}!{database.kind}"


def test_a_change_is_a_read_and_a_conditional_write(heads, wire, database):
    heads.open_session(database, new_session())
    assert wire.requests == ["GetObject", "PutObject"]
    assert wire.sent[-1].headers["If-None-Match"] in ("*", b"*")
    wire.clear()
    heads.append(database, "session", journal_entry())
    assert wire.requests == ["GetObject", "PutObject"]
    assert "If-Match" in wire.sent[-1].headers


def test_what_is_refused_or_known_already_is_not_written(heads, wire, database):
    update = head_update_of(0, 0)
    heads.advance_head(database, update)
    wire.clear()
    heads.advance_head(database, update)
    heads.close_session(database, 1, "session")
    with pytest.raises(Conflict):
        heads.append(database, "session", journal_entry())
    assert set(wire.requests) == {"GetObject"}


class BeforeEachPut:
    """A client whose `put_object` is preceded by a function that may change its arguments."""

    def __init__(self, client, before):
        self._client, self._before = client, before

    def __getattr__(self, name):
        return getattr(self._client, name)

    def put_object(self, **parameters):
        self._before(parameters)
        return self._client.put_object(**parameters)


def test_a_writer_that_lost_tries_again_on_what_the_winner_wrote(client, bucket, database):
    other = S3HeadStore(client, bucket)
    raced = []

    def race(_parameters):
        if not raced:
            raced.append(True)
            other.open_session(database, new_session("other"))

    heads = S3HeadStore(BeforeEachPut(client, race), bucket)
    head = heads.open_session(database, new_session("mine"))
    assert (head.token, head.session.id) == (2, "mine")


def test_etags_are_spelt_as_the_store_wants_them(client, bucket, database):
    """As radosgw has it: a quoted ETag never matches, a bare one does."""
    spelt = []

    def as_radosgw(params):
        if "IfMatch" in params:
            spelt.append(params["IfMatch"])
            quoted = params["IfMatch"].startswith('"')
            params["IfMatch"] = '"0"' if quoted else f'"{params["IfMatch"]}"'

    heads = S3HeadStore(BeforeEachPut(client, as_radosgw), bucket)
    heads.open_session(database, new_session())
    for _seq in range(1, 4):
        heads.append(database, "session", journal_entry())
    assert [etag.startswith('"') for etag in spelt] == [True, False, False, False]


def test_a_record_that_arrived_spoilt_is_read_again(heads, wire, database):
    head = heads.open_session(database, new_session())
    wire.fault("GetObject", FLIPPED)
    assert heads.find(database) == head


def test_a_record_that_stays_spoilt_is_corrupt_and_is_not_written_over(heads, client, bucket, wire, database):
    heads.open_session(database, new_session())
    body = bytearray(client.get_object(Bucket=bucket, Key=key(database))["Body"].read())
    body[60] ^= 1
    client.put_object(Bucket=bucket, Key=key(database), Body=bytes(body))
    wire.clear()
    for call in (lambda: heads.find(database), lambda: heads.advance_head(database, head_update_of(0, 1))):
        with pytest.raises(Corrupt, match=database.user):
            call()
    assert set(wire.requests) == {"GetObject"}


@pytest.mark.parametrize("body", [b"", b"AnkH", b"AnkH\x01", b"AnkH\x01" + bytes(40), b"<html>"])
def test_what_is_no_record_is_named(heads, client, bucket, database, body):
    client.put_object(Bucket=bucket, Key=key(database), Body=body)
    with pytest.raises(Corrupt, match=database.user):
        heads.find(database)


def test_a_record_of_a_newer_format_is_refused(heads, client, bucket, database):
    client.put_object(Bucket=bucket, Key=key(database), Body=b"AnkH\x02" + bytes(40))
    with pytest.raises(StorageError, match="format version 2"):
        heads.find(database)


def test_a_listing_of_more_than_one_page_is_whole_and_lazy(client, bucket, wire):
    heads = S3HeadStore(client, bucket, f"{uuid.uuid4().hex}/")
    client.meta.events.register(
        "before-parameter-build.s3.ListObjectsV2", lambda params, **_: params.update(MaxKeys=3)
    )
    everyone = [collection_of(f"user{number}") for number in range(8)]
    for database in everyone:
        heads.open_session(database, new_session())
    wire.clear()
    listed = heads.list()
    assert next(listed) == everyone[0]
    assert wire.requests == ["ListObjectsV2"]
    assert list(listed) == everyone[1:]
