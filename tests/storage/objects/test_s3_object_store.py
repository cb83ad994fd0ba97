"""What only the object store in a bucket does: parts, checksums, windows, pages."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import uuid

import pytest

from storage.errors import NotFound, Unavailable
from storage.objects import s3
from storage.objects.s3 import S3ObjectStore
from tests.support import aws
from tests.support.aws_wire import CUT, ERROR, FLIPPED, NO_CONNECTION, Wire
from tests.support.engines import OTHER_ENGINE
from tests.support.far_s3 import far_s3

MIB = 1 << 20


@pytest.fixture(params=["moto_bucket", pytest.param("radosgw_bucket", marks=OTHER_ENGINE)])
def engine(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def bucket(engine):
    return engine[1]


@pytest.fixture
def client(engine):
    return aws.s3_client(engine[0])


@pytest.fixture
def wire(client):
    return Wire(client)


@pytest.fixture
def objects(client, bucket, wire):
    return S3ObjectStore(client, bucket, f"{uuid.uuid4().hex}/")


@pytest.fixture
def small_parts(monkeypatch):
    """Parts as small as S3 allows, from a size that a test can afford."""
    monkeypatch.setattr(s3, "_SINGLE_PUT_BYTES", 5 * MIB)
    monkeypatch.setattr(s3, "_PART_BYTES", 5 * MIB)


@pytest.fixture
def no_naps(monkeypatch):
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)


def file_of(tmp_path, size):
    path = tmp_path / "source"
    path.write_bytes((b"0123456789abcdef" * (size // 16 + 1))[:size])
    return path


def checksum_sent(request):
    sent = request.headers["x-amz-checksum-sha256"]
    return sent.decode() if isinstance(sent, bytes) else sent


def sha256(content):
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


def uploads(client, bucket):
    return client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])


def test_every_put_brings_its_checksum(objects, wire, tmp_path):
    objects.put("a", b"content")
    objects.put_file("b", file_of(tmp_path, 1000))
    objects.put("c", bytes(100_000))
    sent = [checksum_sent(request) for request in wire.sent]
    assert sent == [sha256(b"content"), sha256(file_of(tmp_path, 1000).read_bytes()), sha256(bytes(100_000))]
    assert wire.requests == ["PutObject"] * 3


def test_a_large_file_goes_in_parts_each_with_its_checksum(objects, wire, small_parts, tmp_path):
    path = file_of(tmp_path, 12 * MIB)
    content = path.read_bytes()
    objects.put_file("a", path)
    assert sorted(wire.requests) == [
        "CompleteMultipartUpload",
        "CreateMultipartUpload",
        *["UploadPart"] * 3,
    ]
    parts = {
        int(re.search(r"partNumber=(\d+)", request.url)[1]): checksum_sent(request)
        for request, operation in zip(wire.sent, wire.requests, strict=True)
        if operation == "UploadPart"
    }
    at = 5 * MIB
    assert parts == {1: sha256(content[:at]), 2: sha256(content[at : 2 * at]), 3: sha256(content[2 * at :])}
    assert objects.read("a") == content


def test_a_large_file_that_fails_leaves_no_parts(
    objects, client, bucket, wire, small_parts, no_naps, tmp_path
):
    for operation in ("UploadPart", "CompleteMultipartUpload"):
        wire.fault(operation, ERROR, times=50)
        with pytest.raises(Unavailable):
            objects.put_file("a", file_of(tmp_path, 12 * MIB))
        wire.clear()
        assert uploads(client, bucket) == []
    assert objects.find("a") is None


def test_a_file_is_not_held_in_memory_as_a_whole(objects, small_parts, tmp_path, monkeypatch):
    held, most = [], 0
    real = s3.S3ObjectStore._upload_part

    def upload(store, key, upload, number, content):
        nonlocal most
        held.append(len(content))
        most = max(most, sum(held))
        try:
            return real(store, key, upload, number, content)
        finally:
            held.remove(len(content))

    monkeypatch.setattr(s3.S3ObjectStore, "_upload_part", upload)
    objects.put_file("a", file_of(tmp_path, 40 * MIB))
    assert most <= 15 * MIB


def test_a_file_that_is_not_there_cannot_be_put(objects, tmp_path):
    with pytest.raises(NotFound):
        objects.put_file("a", tmp_path / "absent")


def test_a_small_object_is_streamed_by_one_request(objects, wire):
    objects.put("a", bytes(20_000))
    wire.clear()
    assert b"".join(objects.stream("a")) == bytes(20_000)
    assert wire.requests == ["GetObject"]


def test_a_large_object_is_streamed_by_pieces_that_do_not_overlap(objects, wire, tmp_path):
    path = file_of(tmp_path, 21 * MIB + 5)
    objects.put_file("a", path)
    wire.clear()
    assert b"".join(objects.stream("a")) == path.read_bytes()
    ranges = sorted(
        int(re.match(r"bytes=(\d+)-", _text(request.headers["Range"]))[1]) for request in wire.sent
    )
    assert ranges == [piece * MIB for piece in range(22)]


def test_the_pieces_of_a_stream_are_fetched_side_by_side_and_come_in_order():
    with far_s3(latency_s=0.1) as (endpoint, flights):
        objects = aws.s3_objects(endpoint, "bucket")
        content = b"".join(bytes([number]) * MIB for number in range(30)) + b"end"
        objects.put("a", content)
        assert b"".join(objects.stream("a")) == content
        assert (flights.all["GET"], flights.most["GET"]) == (31, 12)


def test_no_more_of_a_stream_is_fetched_than_is_soon_needed():
    with far_s3() as (endpoint, flights):
        objects = aws.s3_objects(endpoint, "bucket")
        objects.put("a", bytes(40 * MIB))
        pieces = objects.stream("a")
        for _ in range(3):
            next(pieces)
        pieces.close()
        objects._pool.shutdown()
        assert flights.all["GET"] <= 3 + 12


def test_a_function_is_applied_to_several_items_at_once(client, bucket):
    objects = S3ObjectStore(client, bucket, parallel=4)
    together = threading.Barrier(4)
    assert objects.in_parallel(lambda item: together.wait(5) >= 0 and item, range(4)) == [0, 1, 2, 3]


def test_the_first_failure_is_raised_when_all_have_ended(client, bucket):
    ended = []

    def fail_at(item):
        ended.append(item)
        if item:
            raise Unavailable(str(item))

    with pytest.raises(Unavailable, match="1"):
        S3ObjectStore(client, bucket).in_parallel(fail_at, range(4))
    assert sorted(ended) == [0, 1, 2, 3]


def _text(value):
    return value.decode() if isinstance(value, bytes) else value


def test_a_stream_that_breaks_goes_on_where_it_broke(objects, wire, tmp_path):
    path = file_of(tmp_path, 9 * MIB)
    objects.put_file("a", path)
    wire.fault("GetObject", CUT, times=2)
    assert b"".join(objects.stream("a")) == path.read_bytes()


def test_a_stream_of_what_is_deleted_meanwhile_is_unavailable(objects, tmp_path):
    objects.put_file("a", file_of(tmp_path, 30 * MIB))
    pieces = objects.stream("a")
    next(pieces)
    objects.delete(["a"])
    with pytest.raises(Unavailable, match="deleted while it was read"):
        list(pieces)


def test_a_read_whose_body_breaks_each_time_is_unavailable(objects, wire):
    objects.put("a", bytes(1000))
    wire.fault("GetObject", CUT, times=50)
    with pytest.raises(Unavailable):
        objects.read("a")


def test_a_flipped_bit_is_the_matter_of_who_knows_the_checksum(objects, wire):
    objects.put("a", bytes(1000))
    wire.fault("GetObject", FLIPPED)
    assert objects.read("a") != bytes(1000)


def test_a_listing_of_more_than_one_page_is_whole_and_lazy(objects, client, wire):
    client.meta.events.register(
        "before-parameter-build.s3.ListObjectsV2", lambda params, **_: params.update(MaxKeys=3)
    )
    expected = [f"a/{number}" for number in range(8)]
    objects.put_many([(key, b"") for key in expected])
    wire.clear()
    listed = objects.list("a/")
    assert next(listed).key == "a/0"
    assert wire.requests == ["ListObjectsV2"]
    assert ["a/0", *(found.key for found in listed)] == expected
    assert wire.requests == ["ListObjectsV2"] * 3


def test_an_object_that_could_not_be_deleted_is_told(objects, client):
    def refuse(http_response, parsed, model, **_):
        parsed["Errors"] = [{"Key": "a", "Code": "InternalError", "Message": "planned"}]

    client.meta.events.register("after-call.s3.DeleteObjects", refuse)
    with pytest.raises(Unavailable, match="planned"):
        objects.delete(["a"])


def test_a_bucket_that_is_not_there_is_an_outage_and_not_an_absent_object(client):
    objects = S3ObjectStore(client, "no-such-bucket-anywhere")
    for call in (lambda: objects.read("a"), lambda: objects.put("a", b""), lambda: list(objects.list(""))):
        with pytest.raises(Unavailable, match="NoSuchBucket"):
            call()


def test_a_batch_of_which_one_fails_fails_after_all_have_ended(objects, wire, no_naps):
    wire.fault("PutObject", NO_CONNECTION, times=3)
    with pytest.raises(Unavailable):
        objects.put_many([(f"a/{number}", b"x") for number in range(1)])
    assert wire.requests == ["PutObject"] * 3


def test_a_store_sees_only_what_is_under_its_prefix(client, bucket):
    place = uuid.uuid4().hex
    outer, inner = (
        S3ObjectStore(client, bucket, f"{place}/"),
        S3ObjectStore(client, bucket, f"{place}/inner/"),
    )
    inner.put("a", b"x")
    outer.put("b", b"x")
    assert [found.key for found in outer.list("")] == ["b", "inner/a"]
    assert [found.key for found in inner.list("")] == ["a"]
