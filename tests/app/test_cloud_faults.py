"""What the server finds out about bucket, table and user pool before it starts."""

from __future__ import annotations

from types import SimpleNamespace

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from moto import mock_aws

from app.cloud import Cloud, _bucket_fault, _pool_fault, _table_fault, find_faults
from app.config import CloudSettings, CognitoPool, CognitoSettings, Heads


def settings_of(heads: Heads = Heads.S3, cognito: CognitoSettings | None = None) -> SimpleNamespace:
    place = CloudSettings("bucket", "some/", heads, "table" if heads is Heads.DYNAMODB else "")
    return SimpleNamespace(cloud=place, cognito=cognito, region="us-east-1")


class Store:
    """An S3-compatible store that does something else than S3 does."""

    def __init__(self, client, **changes) -> None:
        self.client, self.changes = client, changes
        self.meta = client.meta

    def __getattr__(self, name: str):
        def call(**parameters):
            if change := self.changes.get(name):
                parameters = change(parameters)
            return getattr(self.client, name)(**parameters)

        return call


def without(*names: str):
    return lambda parameters: {name: value for name, value in parameters.items() if name not in names}


def fails(code: str, status: int):
    def fail(_parameters):
        raise ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Call")

    return fail


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        yield client


def fault_of(client, heads: Heads = Heads.S3):
    cloud = Cloud(settings_of(heads))
    cloud._made["s3"] = client
    return _bucket_fault(cloud)


@pytest.mark.parametrize("heads", list(Heads))
def test_a_store_that_keeps_conditions_is_good_and_nothing_stays_in_it(bucket, heads):
    assert fault_of(bucket, heads) is None
    assert "Contents" not in bucket.list_objects_v2(Bucket="bucket")


@pytest.mark.parametrize("ignored", ["IfMatch", "IfNoneMatch"])
def test_a_store_that_ignores_a_condition_is_found(bucket, ignored):
    fault = fault_of(Store(bucket, put_object=without(ignored)))
    assert fault.is_fatal
    assert f"it ignores {ignored.replace('If', 'If-').replace('NoneM', 'None-M')}:" in fault.text
    assert "\n" not in fault.text
    assert "Contents" not in bucket.list_objects_v2(Bucket="bucket")


def test_conditions_do_not_matter_where_the_heads_are_in_a_table(bucket):
    assert fault_of(Store(bucket, put_object=without("IfMatch", "IfNoneMatch")), Heads.DYNAMODB) is None


def test_a_store_that_wants_etags_without_quotes_will_do(bucket):
    def change(parameters):
        etag = parameters.get("IfMatch", "")
        if etag.startswith('"'):
            fails("PreconditionFailed", 412)(parameters)
        return parameters | ({"IfMatch": f'"{etag}"'} if etag else {})

    assert fault_of(Store(bucket, put_object=change)) is None


def test_a_store_that_takes_no_etag_at_all_is_found(bucket):
    def change(parameters):
        return fails("PreconditionFailed", 412)(parameters) if "IfMatch" in parameters else parameters

    assert "with its own ETag" in fault_of(Store(bucket, put_object=change)).text


@pytest.mark.parametrize("call", ["head_bucket", "put_object", "get_object"])
def test_a_bucket_without_rights_or_of_another_account_is_said_in_plain_words(bucket, call):
    fault = fault_of(Store(bucket, **{call: fails("AccessDenied", 403)}))
    assert fault.is_fatal
    assert "another account's, or the rights are missing" in fault.text


def test_a_missing_right_to_delete_is_no_fault(bucket):
    assert fault_of(Store(bucket, delete_object=fails("AccessDenied", 403))) is None


def test_a_missing_bucket_is_found(bucket):
    bucket.delete_bucket(Bucket="bucket")
    assert "there is no bucket" in fault_of(bucket).text


def test_a_bucket_that_answers_with_an_error_of_its_own_delays_only_what_depends_on_it(bucket):
    broken = Store(bucket, put_object=fails("InternalError", 500))
    assert not fault_of(broken, Heads.DYNAMODB).is_fatal
    assert fault_of(broken, Heads.S3).is_fatal


def test_a_table_that_is_throttled_does_not_keep_the_server_from_starting():
    cloud = Cloud(settings_of(Heads.DYNAMODB))
    cloud._made["dynamodb"] = Store(
        SimpleNamespace(meta=None), describe_table=fails("ThrottlingException", 400)
    )
    assert not _table_fault(cloud).is_fatal
    cloud._made["dynamodb"] = Store(SimpleNamespace(meta=None), describe_table=fails("AccessDenied", 400))
    assert _table_fault(cloud).is_fatal


@pytest.fixture
def pool(bucket):
    client = boto3.client("cognito-idp", region_name="eu-central-1")
    made = client.create_user_pool(PoolName="anki")["UserPool"]["Id"]
    app = client.create_user_pool_client(UserPoolId=made, ClientName="server")["UserPoolClient"]
    return CognitoSettings(CognitoPool(made, app["ClientId"], None), "eu-central-1", 5)


def pool_fault(monkeypatch, cognito: CognitoSettings, fault: Exception | None = None):
    cloud = Cloud(settings_of(cognito=cognito))
    directory = cloud.directory(cognito)
    if fault is not None:

        def fail(**_parameters):
            raise fault

        monkeypatch.setattr(directory._client, "admin_initiate_auth", fail)
    monkeypatch.setattr(cloud, "directory", lambda _cognito: directory)
    return _pool_fault(cloud, cognito)


def test_a_pool_that_works_is_good(monkeypatch, pool):
    assert pool_fault(monkeypatch, pool) is None
    assert find_faults(settings_of(cognito=pool)) == []


@pytest.mark.parametrize(
    "fault",
    [
        EndpointConnectionError(endpoint_url="https://cognito.example"),
        ClientError({"Error": {"Code": "TooManyRequestsException"}}, "AdminInitiateAuth"),
        ClientError({"Error": {"Code": "InternalErrorException"}}, "AdminInitiateAuth"),
    ],
)
def test_a_pool_that_is_away_is_a_warning(monkeypatch, pool, fault):
    finding = pool_fault(monkeypatch, pool, fault)
    assert not finding.is_fatal
    assert "is away" in finding.text


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("ResourceNotFoundException", "User pool client does not exist."),
        ("NotAuthorizedException", "Unable to verify secret hash for client"),
        ("AccessDeniedException", "not authorized to perform: cognito-idp:AdminInitiateAuth"),
    ],
)
def test_wrong_settings_of_a_pool_keep_the_server_from_starting(monkeypatch, pool, code, message):
    fault = ClientError({"Error": {"Code": code, "Message": message}}, "AdminInitiateAuth")
    assert pool_fault(monkeypatch, pool, fault).is_fatal
