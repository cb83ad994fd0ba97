"""The clients that stand in for the SDK's: the same requests, answers, errors and retries."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import io
import json
import os
import urllib.request
import uuid

import boto3
import pytest
from botocore import UNSIGNED
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError, ParamValidationError
from urllib3 import HTTPResponse

from storage.awsclient import DirectDynamoDB, DirectS3
from storage.awshttp import Answer, Tls
from storage.heads import dynamodb as heads_dynamodb
from tests.support import aws
from tests.support.aws_wire import ANSWER_LOST, ERROR, FLIPPED, NO_CONNECTION, Wire

SOUND = {"HTTPStatusCode": 200, "RetryAttempts": 0}


class Noted:
    """What a client sends: each operation once as `sdk` or `bare`."""

    def __init__(self, client):
        self.ways, self.requests = [], []
        client.meta.events.register("before-send", self._by_sdk)
        self._pass_on, client._send = client._send, self._bare

    def _by_sdk(self, request, **_):
        self.ways.append("sdk")
        self.requests.append(request)

    def _bare(self, route, method, path, headers, body, digest):
        self.ways.append("bare")
        try:
            return self._pass_on(route, method, path, headers, body, digest)
        finally:
            self.requests.append((method, route.url + path, headers, body))


@pytest.fixture
def no_naps(monkeypatch):
    naps = []
    monkeypatch.setattr("botocore.endpoint.time.sleep", naps.append)
    return naps


@pytest.fixture
def table(moto_table):
    return moto_table[1]


@pytest.fixture
def bucket(moto_bucket):
    return moto_bucket[1]


@pytest.fixture
def dynamo(moto_endpoint):
    return aws.dynamodb_client(moto_endpoint)


@pytest.fixture
def s3(moto_endpoint):
    return aws.s3_client(moto_endpoint)


ITEM = {
    "B": {"B": b"\x00\xff"},
    "L": {"L": [{"B": b"x"}, {"N": "1"}, {"L": []}]},
    "M": {"M": {"inner": {"S": "ü"}, "none": {"NULL": True}}},
    "BOOL": {"BOOL": False},
    "SS": {"SS": ["a", "b"]},
    "BS": {"BS": [b"a"]},
    "NS": {"NS": ["3"]},
    "N": {"N": "-1.5"},
}


def key():
    return {"pk": {"S": uuid.uuid4().hex}}


def with_way(client, way, call):
    """The answer of a call by the SDK, or by a bare request of a client that has learned."""
    return call(client._client if way == "sdk" else client)


@pytest.mark.parametrize("way", ["sdk", "bare"])
def test_items_come_back_as_they_were_put(dynamo, table, way):
    at = key()
    dynamo.put_item(TableName=table, Item=at | ITEM)
    dynamo.get_item(TableName=table, Key=at)
    noted = Noted(dynamo)
    found = with_way(
        dynamo, way, lambda client: client.get_item(TableName=table, Key=at, ConsistentRead=True)
    )
    assert found["Item"] == at | ITEM
    assert noted.ways == [way]


@pytest.mark.parametrize("way", ["sdk", "bare"])
def test_an_update_answers_with_the_item(dynamo, table, way):
    at = key()
    dynamo.get_item(TableName=table, Key=at)
    update = {
        "TableName": table,
        "Key": at,
        "UpdateExpression": "SET a = :a",
        "ExpressionAttributeValues": {":a": {"B": b"\xff"}},
        "ReturnValues": "ALL_NEW",
    }
    found = with_way(dynamo, way, lambda client: client.update_item(**update))
    assert found["Attributes"] == at | {"a": {"B": b"\xff"}}
    assert found["ResponseMetadata"].items() >= SOUND.items()


@pytest.mark.parametrize("way", ["sdk", "bare"])
def test_a_batch_answers_with_those_that_there_are(dynamo, table, way):
    keys = [key() for _ in range(3)]
    for at in keys[:2]:
        dynamo.put_item(TableName=table, Item=at)
    dynamo.get_item(TableName=table, Key=keys[0])
    wanted = {table: {"Keys": keys, "ConsistentRead": True}}
    found = with_way(dynamo, way, lambda client: client.batch_get_item(RequestItems=wanted))
    assert sorted(item["pk"]["S"] for item in found["Responses"][table]) == sorted(
        at["pk"]["S"] for at in keys[:2]
    )
    assert found["UnprocessedKeys"] == {}


@pytest.mark.parametrize("way", ["sdk", "bare"])
def test_a_condition_that_fails_brings_the_item_along(dynamo, table, way):
    at = key()
    dynamo.put_item(TableName=table, Item=at | ITEM)
    dynamo.get_item(TableName=table, Key=at)
    wire = Wire(dynamo)
    update = {
        "TableName": table,
        "Key": at,
        "UpdateExpression": "SET a = :a",
        "ConditionExpression": "attribute_not_exists(pk)",
        "ExpressionAttributeValues": {":a": {"S": "x"}},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    with pytest.raises(ClientError) as caught:
        with_way(dynamo, way, lambda client: client.update_item(**update))
    assert caught.value.response["Error"]["Code"] == "ConditionalCheckFailedException"
    assert caught.value.response["Item"] == at | ITEM
    assert caught.value.response["ResponseMetadata"]["RetryAttempts"] == 0
    assert wire.requests == ["UpdateItem"]


def test_arguments_that_make_no_sense_are_told_as_by_the_sdk(dynamo, table):
    dynamo.get_item(TableName=table, Key=key())
    for wrong in ({"pk": "x"}, {"pk": {"S": object()}}):
        with pytest.raises(ParamValidationError):
            dynamo.get_item(TableName=table, Key=wrong)


@pytest.mark.parametrize("fault", [NO_CONNECTION, ANSWER_LOST, ERROR, FLIPPED])
def test_a_bare_request_that_fails_is_the_first_attempt_of_the_sdk(dynamo, table, no_naps, fault):
    at = key()
    dynamo.put_item(TableName=table, Item=at | ITEM)
    dynamo.get_item(TableName=table, Key=at)
    wire = Wire(dynamo)
    wire.fault("GetItem", fault)
    found = dynamo.get_item(TableName=table, Key=at)
    assert found["Item"] == at | ITEM
    assert found["ResponseMetadata"]["RetryAttempts"] == 1
    assert wire.requests == ["GetItem"] * 2
    assert len(no_naps) == 1


def test_a_fault_that_lasts_costs_as_many_requests_as_with_the_sdk(dynamo, table, no_naps):
    dynamo.get_item(TableName=table, Key=key())
    wire = Wire(dynamo)
    wire.fault("GetItem", ERROR, times=50)
    with pytest.raises(ClientError) as caught:
        dynamo.get_item(TableName=table, Key=key())
    assert caught.value.response["ResponseMetadata"]["MaxAttemptsReached"]
    assert wire.requests == ["GetItem"] * 4
    assert heads_dynamodb.client_config(1).retries["total_max_attempts"] == 4


def test_successes_of_bare_requests_restore_the_quota_of_retries(dynamo, table, no_naps):
    """500 tokens, 14 a retry: after twelve lost calls no more is retried, until calls succeed again."""
    at = key()
    dynamo.get_item(TableName=table, Key=at)
    wire = Wire(dynamo)

    def count():
        wire.clear()
        wire.fault("GetItem", ERROR, times=50)
        with pytest.raises(ClientError):
            dynamo.get_item(TableName=table, Key=at)
        sent = len(wire.requests)
        wire.clear()
        return sent

    counts = [count() for _ in range(14)]
    assert (counts[0], counts[-1]) == (4, 1)
    for _ in range(60):
        dynamo.get_item(TableName=table, Key=at)
    assert count() == 4


@pytest.mark.parametrize("name", ["plain", "a b+c~ü/d", "sub/../x", "100%"])
def test_objects_come_back_as_they_were_put(s3, bucket, name):
    noted = Noted(s3)
    for content in (b"", b"first", b"second"):
        put = s3.put_object(Bucket=bucket, Key=name, Body=content)
        got = s3.get_object(Bucket=bucket, Key=name)
        assert got["Body"].read() == content
        assert (got["ETag"], got["ContentLength"]) == (put["ETag"], len(content))
    assert noted.ways == ["sdk", *["bare"] * 5]


def test_head_and_ranges_answer_as_by_the_sdk(s3, bucket):
    s3.put_object(Bucket=bucket, Key="a", Body=b"0123456789")
    noted = Noted(s3)
    for call in (
        lambda client: client.head_object(Bucket=bucket, Key="a"),
        lambda client: client.get_object(Bucket=bucket, Key="a", Range="bytes=2-4"),
    ):
        theirs, ours = call(s3._client), call(s3)
        bodies = [answer.pop("Body").read() for answer in (theirs, ours) if "Body" in answer]
        assert len(set(bodies)) <= 1
        status = ours.pop("ResponseMetadata")["HTTPStatusCode"]
        assert status == theirs["ResponseMetadata"]["HTTPStatusCode"]
        for name in ours:
            assert ours[name] == theirs[name]
    assert noted.ways == ["sdk", "bare"] * 2


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda client, bucket: client.head_object(Bucket=bucket, Key="none"), "404"),
        (lambda client, bucket: client.get_object(Bucket=bucket, Key="none"), "NoSuchKey"),
        (lambda client, bucket: client.get_object(Bucket=bucket, Key="a", Range="bytes=9-"), "InvalidRange"),
        (
            lambda client, bucket: client.put_object(Bucket=bucket, Key="a", Body=b"", IfNoneMatch="*"),
            "PreconditionFailed",
        ),
    ],
)
def test_errors_are_those_of_the_sdk(s3, bucket, call, code):
    s3.put_object(Bucket=bucket, Key="a", Body=b"x")
    wire = Wire(s3)
    caught = []
    for client in (s3._client, s3):
        with pytest.raises(ClientError) as error:
            call(client, bucket)
        caught.append(error.value)
    assert [str(one) for one in caught] == [str(caught[0])] * 2
    assert caught[1].response["Error"]["Code"] == code
    theirs, ours = (one.response["ResponseMetadata"] for one in caught)
    assert (ours["HTTPStatusCode"], ours["RetryAttempts"]) == (theirs["HTTPStatusCode"], 0)
    assert len(wire.requests) == 2


def test_large_bodies_files_and_other_arguments_go_by_the_sdk(s3, bucket):
    s3.put_object(Bucket=bucket, Key="a", Body=b"x")
    noted = Noted(s3)
    s3.put_object(Bucket=bucket, Key="a", Body=bytes((1 << 20) + 1))
    s3.put_object(Bucket=bucket, Key="a", Body=io.BytesIO(b"x"))
    s3.put_object(Bucket=bucket, Key="a", Body=b"x", ContentType="text/plain")
    assert noted.ways == ["sdk"] * 3


@pytest.mark.parametrize(
    ("service", "call"),
    [
        ("dynamodb", lambda client: client.get_item(TableName="t", Key={"pk": {"S": "x"}})),
        ("dynamodb", lambda client: client.update_item(TableName="t", Key={"pk": {"S": "x"}})),
        (
            "s3",
            lambda client: client.put_object(
                Bucket="b", Key="k/a b", Body=b"x", ChecksumSHA256=_sha256(b"x")
            ),
        ),
        ("s3", lambda client: client.put_object(Bucket="b", Key="k/a b", Body=b"x", IfMatch='"1"')),
        ("s3", lambda client: client.get_object(Bucket="b", Key="k/a b", Range="bytes=0-3")),
        ("s3", lambda client: client.head_object(Bucket="b", Key="k/a b")),
    ],
)
@pytest.mark.parametrize("token", [None, "session token"])
def test_a_bare_request_is_that_of_the_sdk_but_for_its_telemetry(service, call, token, monkeypatch):
    monkeypatch.setattr("storage.awshttp.time.gmtime", lambda: (2026, 1, 2, 3, 4, 5, 0, 2, 0))
    client = pretending_client(service, token)
    call(client)
    monkeypatch.setattr("botocore.auth.get_current_datetime", _then)
    call(client._client)
    theirs = client.sent[-1]
    bare = []
    route = client._route if service == "dynamodb" else client._routes["b"][0]
    monkeypatch.setattr(route._connections, "send", lambda *request: bare.append(request) or FINE)
    call(client)
    _, head, _ = bare[0]
    line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines) if name}
    expected = {name.lower(): _text(value) for name, value in theirs.headers.items()}
    for telemetry in ("amz-sdk-invocation-id", "amz-sdk-request", "expect"):
        expected.pop(telemetry, None)
    # http.client adds these to what the SDK prepares
    expected |= {"host": headers["host"], "accept-encoding": "identity"}
    assert expected.pop("user-agent").split(" m/")[0] == headers.pop("user-agent").split(" m/")[0]
    if service == "dynamodb":  # the SDK writes spaces into its JSON, so the bodies have other digests
        for differs in ("authorization", "content-length"):
            headers.pop(differs), expected.pop(differs)
    assert headers == expected
    assert line == f"{theirs.method} {theirs.url.removeprefix('https://' + headers['host'])} HTTP/1.1"


FINE = Answer(
    200, {"content-length": "2", "etag": "e", "last-modified": "Fri, 02 Jan 2026 03:04:05 GMT"}, b"{}"
)


def _then():
    return dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def _text(value):
    return value.decode() if isinstance(value, bytes) else value


def pretending_client(service, token=None, **config):
    """A client of AWS itself, whose requests are noted and answered here."""
    sdk = boto3.Session().client(
        service,
        region_name="eu-central-1",
        aws_access_key_id="AKID",
        aws_secret_access_key="secret",
        aws_session_token=token,
        config=Config(
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard"},
            **config,
        ),
    )
    client = DirectS3(sdk) if service == "s3" else DirectDynamoDB(sdk)
    client.sent = []

    def answer(request, **_):
        client.sent.append(request)
        body = io.BytesIO(b"{}" if service == "dynamodb" else b"")
        raw = HTTPResponse(body, dict(FINE.headers), 200, preload_content=False, enforce_content_length=False)
        return AWSResponse(request.url, 200, raw.headers, raw)

    sdk.meta.events.register("before-send", answer)
    return client


def test_buckets_are_addressed_as_the_sdk_addresses_them():
    for style, expected in (
        ("virtual", ("https://bucket.s3.eu-central-1.amazonaws.com", "/")),
        ("path", ("https://s3.eu-central-1.amazonaws.com", "/bucket/")),
    ):
        client = pretending_client("s3", s3={"addressing_style": style})
        client.head_object(Bucket="bucket", Key="k")
        route, base = client._routes["bucket"]
        assert (route.url, base) == expected


def test_servers_are_verified_with_the_authorities_that_the_sdk_uses(monkeypatch):
    found = []
    monkeypatch.setattr("storage.awsclient.Connections", lambda *where, **_: found.append(where))
    monkeypatch.setenv("AWS_CA_BUNDLE", "/etc/ours.pem")
    client = pretending_client("s3")
    client.head_object(Bucket="bucket", Key="k")
    assert found == [("bucket.s3.eu-central-1.amazonaws.com", 443, Tls("/etc/ours.pem", None, None))]


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_behind_a_proxy_all_goes_by_the_sdk(monkeypatch, variable):
    monkeypatch.setitem(os.environ, variable, "http://127.0.0.1:9")
    client = pretending_client("s3")
    for _ in range(2):
        client.head_object(Bucket="b", Key="k")
    assert (len(client.sent), client._routes) == (2, {})


def test_a_proxy_of_the_client_is_kept_to():
    client = pretending_client("dynamodb", proxies={"https": "http://127.0.0.1:9"})
    client.get_item(TableName="t", Key={"pk": {"S": "x"}})
    assert client._route is None


def test_what_is_not_signed_by_version_4_goes_by_the_sdk():
    client = pretending_client("s3", signature_version=UNSIGNED)
    client.head_object(Bucket="b", Key="k")
    assert client._routes == {}


def test_credentials_that_were_renewed_are_used_at_once(monkeypatch):
    client = pretending_client("dynamodb")
    client.get_item(TableName="t", Key={"pk": {"S": "x"}})
    route, bare = client._route, []
    monkeypatch.setattr(route._connections, "send", lambda *request: bare.append(request) or FINE)
    credentials = client._client._request_signer._credentials
    credentials.access_key, credentials.secret_key, credentials.token = "RENEWED", "new", "token"
    client.get_item(TableName="t", Key={"pk": {"S": "x"}})
    assert b"Credential=RENEWED/" in bare[0][1]
    assert b"x-amz-security-token: token\r\n" in bare[0][1]


def test_a_route_that_the_sdk_has_left_is_learned_anew(s3, bucket, no_naps):
    s3.put_object(Bucket=bucket, Key="a", Body=b"x")
    wire = Wire(s3)
    route, _ = s3._routes[bucket]
    route.url = "http://where-the-bucket-was.invalid"
    wire.fault("GetObject", NO_CONNECTION)
    assert s3.get_object(Bucket=bucket, Key="a")["Body"].read() == b"x"
    assert s3._routes[bucket][0] is not route


@pytest.fixture
def strict_engine():
    """Verifies signatures; its address, and the keys of a user who may do everything."""
    with aws.moto() as endpoint:
        iam = aws.client("iam", endpoint)
        iam.create_user(UserName="user")
        allowed = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        iam.put_user_policy(
            UserName="user",
            PolicyName="all",
            PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allowed]}),
        )
        keys = iam.create_access_key(UserName="user")["AccessKey"]
        place = endpoint, aws.new_bucket(endpoint), aws.new_table(endpoint), keys
        request = urllib.request.Request(
            f"{endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}, method="POST"
        )
        urllib.request.urlopen(request, timeout=10).close()
        yield place


def test_an_engine_that_verifies_signatures_takes_bare_requests(strict_engine):
    endpoint, bucket, table, keys = strict_engine

    def client_of(service):
        return boto3.Session().client(
            service,
            endpoint_url=endpoint,
            region_name="eu-central-1",
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            config=Config(request_checksum_calculation="when_required", s3={"addressing_style": "path"}),
        )

    s3, dynamo, at = DirectS3(client_of("s3")), DirectDynamoDB(client_of("dynamodb")), key()
    s3.put_object(Bucket=bucket, Key="a/b", Body=b"")
    dynamo.get_item(TableName=table, Key=at)
    noted = [Noted(s3), Noted(dynamo)]
    s3.put_object(Bucket=bucket, Key="a/b", Body=b"content", ChecksumSHA256=_sha256(b"content"))
    assert s3.get_object(Bucket=bucket, Key="a/b", Range="bytes=0-2")["Body"].read() == b"con"
    assert s3.head_object(Bucket=bucket, Key="a/b")["ContentLength"] == 7
    update = {"UpdateExpression": "SET a = :a", "ExpressionAttributeValues": {":a": {"N": "1"}}}
    dynamo.update_item(TableName=table, Key=at, **update)
    assert dynamo.get_item(TableName=table, Key=at)["Item"] == at | {"a": {"N": "1"}}
    assert [one.ways for one in noted] == [["bare"] * 3, ["bare"] * 2]
    s3._client._request_signer._credentials.secret_key = "another"
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        s3.get_object(Bucket=bucket, Key="a/b")


def _sha256(content):
    return base64.b64encode(hashlib.sha256(content).digest()).decode()
