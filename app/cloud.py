"""Creates AWS clients and backends for `app.main`, checks them, and creates bucket and table for `init`.

No other module creates clients. That happens in the process that uses them, after the fork and after gevent's
patches. The SDK finds endpoints and credentials (`AWS_ENDPOINT_URL_S3`, ...).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, NamedTuple

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from app.auth.aws import s3_hostkeys as keys_s3
from app.auth.aws.cognito import CognitoDirectory
from app.auth.aws.dynamodb import IDLE_MS, TTL_ATTRIBUTE, DynamoCounts, DynamoHostKeys
from app.auth.aws.table import DynamoTable
from app.auth.aws.users import ListingRefused, PoolUser, PoolUsers
from app.auth.hostkeys import HostKeys
from app.config import CloudSettings, CognitoSettings, Heads, Settings
from app.errors import ServiceUnavailable
from storage.aws import mapped
from storage.awsclient import DirectDynamoDB, DirectS3
from storage.heads import dynamodb as heads_dynamodb
from storage.heads.base import HeadStore
from storage.heads.dynamodb import DynamoHeadStore
from storage.heads.s3 import S3HeadStore
from storage.objects import s3 as objects_s3
from storage.objects.s3 import S3ObjectStore
from storage.objects.s3versions import S3Versions
from storage.types import Offload

_CONNECTIONS: Final = 64
"""Connections that a process keeps to one service; further ones are closed after use."""
_PARALLEL: Final = 32
"""Parallel requests to the bucket, where one request of a client needs several."""
_DAY_S: Final = 24 * 3600
_ABORT_AFTER_DAYS: Final = 7
_RECOVERY_DAYS: Final = 35
"""Of point-in-time recovery, where nothing else is set."""
_FORBIDDEN: Final = 403
_SERVER_ERROR: Final = 500
_CONDITION_FAILED: Final = frozenset({404, 409, 412})

CLOUD_ERRORS: Final = (ClientError, BotoCoreError, ValueError)
"""The SDK's errors: error answers of a service, no answer, and invalid settings."""


class Cloud:
    """The clients and backends of one process; each client is created at its first use."""

    def __init__(self, settings: Settings, watch: Callable[[Any], None] = lambda _client: None) -> None:
        """`watch` is given each client of the SDK."""
        self._settings, self._watch = settings, watch
        self._session = boto3.Session(region_name=settings.region)
        self._made: dict[str, Any] = {}

    @property
    def place(self) -> CloudSettings:
        """The bucket and the table."""
        assert self._settings.cloud is not None
        return self._settings.cloud

    @property
    def s3(self) -> Any:
        """The client of the bucket; for endpoints that are not AWS's own, the bucket is part of the path."""
        if "s3" not in self._made:
            config = objects_s3.client_config(_CONNECTIONS)
            client = self._session.client("s3", config=config)
            if "amazonaws.com" not in client.meta.endpoint_url:
                # Other services rarely have a host name per bucket.
                by_path = config.merge(Config(s3={"addressing_style": "path"}))
                client = self._session.client("s3", config=by_path)
            self._watch(client)
            self._made["s3"] = DirectS3(client)
        return self._made["s3"]

    @property
    def dynamodb(self) -> Any:
        """The client of the table."""
        if "dynamodb" not in self._made:
            config = heads_dynamodb.client_config(_CONNECTIONS)
            client = self._session.client("dynamodb", config=config)
            self._watch(client)
            self._made["dynamodb"] = DirectDynamoDB(client)
        return self._made["dynamodb"]

    def objects(self, offload: Offload[Any]) -> S3ObjectStore:
        """The object store."""
        place = self.place
        return S3ObjectStore(self.s3, place.bucket, place.prefix, offload=offload, parallel=_PARALLEL)

    def objects_in(self, bucket: str, prefix: str, offload: Offload[Any]) -> S3ObjectStore:
        """Another bucket, of the same account or one that lets us in: for backups."""
        return S3ObjectStore(self.s3, bucket, prefix, offload=offload, parallel=_PARALLEL)

    def heads(self) -> HeadStore:
        """The head store."""
        place = self.place
        if place.heads is Heads.S3:
            return S3HeadStore(self.s3, place.bucket, place.prefix)
        return DynamoHeadStore(self.dynamodb, place.table)

    def host_keys(self, clock_ms: Callable[[], int]) -> HostKeys:
        """The store of host keys, in the same place as the head records."""
        place = self.place
        if place.heads is Heads.S3:
            return keys_s3.S3HostKeys(self.s3, place.bucket, place.prefix, clock_ms, idle_ms=IDLE_MS)
        return DynamoHostKeys(DynamoTable(self.dynamodb, place.table), clock_ms)

    def counts(self) -> DynamoCounts | None:
        """The counts of login attempts; None if there is no table for them."""
        if self.place.heads is Heads.S3:
            return None
        return DynamoCounts(DynamoTable(self.dynamodb, self.place.table))

    def versions(self) -> S3Versions:
        """Old versions of the bucket's objects."""
        return S3Versions(self.s3, self.place.bucket, self.place.prefix)

    def recovery_days(self) -> int | None:
        """For how long the table can be restored to an earlier moment; None if it cannot.

        Raises: StorageError without the right to look.
        """
        if self.place.heads is Heads.S3:
            return None
        with mapped(f"backups of {self.place.table}"):
            answer = self.dynamodb.describe_continuous_backups(TableName=self.place.table)
        found = answer["ContinuousBackupsDescription"].get("PointInTimeRecoveryDescription", {})
        if found.get("PointInTimeRecoveryStatus") != "ENABLED":
            return None
        return int(found.get("RecoveryPeriodInDays", _RECOVERY_DAYS))

    def directory(self, cognito: CognitoSettings) -> CognitoDirectory:
        """The user directory of a user pool."""
        client = self._cognito(cognito)
        return CognitoDirectory(client, cognito.pool, recheck_after_ms=cognito.recheck_minutes * 60_000)

    def pool_users(self, cognito: CognitoSettings) -> PoolUsers:
        """Those of the user pool, for the administrator; asks nothing yet."""
        return PoolUsers(lambda query: _pool_users(self._cognito(cognito), cognito.pool.pool_id, query))

    def _cognito(self, cognito: CognitoSettings) -> Any:
        config = Config(
            max_pool_connections=_CONNECTIONS,
            connect_timeout=3,
            read_timeout=5,
            retries={"mode": "standard", "total_max_attempts": 2},
            tcp_keepalive=True,
        )
        if "cognito" not in self._made:
            client = self._session.client("cognito-idp", region_name=cognito.region, config=config)
            self._watch(client)
            self._made["cognito"] = client
        return self._made["cognito"]


def _pool_users(client: Any, pool_id: str, query: str) -> Iterator[PoolUser]:
    """What ListUsers finds. Raises: ListingRefused, ServiceUnavailable."""
    chosen = {"Filter": query} if query else {}
    try:
        for page in client.get_paginator("list_users").paginate(UserPoolId=pool_id, **chosen):
            yield from map(_pool_user, page["Users"])
    except ClientError as exc:
        if exc.response["Error"]["Code"] == "AccessDeniedException":
            text = "users of the pool cannot be found by name without the right cognito-idp:ListUsers"
            raise ListingRefused(text) from exc
        raise ServiceUnavailable(f"the user pool cannot be searched: {exc}") from exc
    except BotoCoreError as exc:
        raise ServiceUnavailable(f"the user pool does not answer: {exc}") from exc


def _pool_user(found: Mapping[str, Any]) -> PoolUser:
    attributes = {each["Name"]: each.get("Value", "") for each in found.get("Attributes", ())}
    return PoolUser(
        attributes.get("sub", ""),
        found["Username"],
        attributes.get("email", ""),
        int(found["UserCreateDate"].timestamp() * 1000),
        int(found["UserLastModifiedDate"].timestamp() * 1000),
    )


class Finding(NamedTuple):
    """A fault because of which the server cannot work with these settings."""

    text: str
    is_fatal: bool = True
    """False: it is temporary, and the server can start."""


class Examined(NamedTuple):
    """One service that is configured."""

    service: str
    place: str
    finding: Finding | None
    """None: it can be used."""


def examine(settings: Settings) -> list[Examined]:
    """Look at each service that is configured; writes and deletes one small object."""
    cloud = Cloud(settings)
    checks: list[tuple[str, str, Callable[[], Finding | None]]] = []
    if settings.cloud is not None:
        bucket = f"s3://{settings.cloud.bucket}/{settings.cloud.prefix}"
        checks.append(("bucket", bucket, lambda: _bucket_fault(cloud)))
        if settings.cloud.heads is Heads.DYNAMODB:
            checks.append(("table", settings.cloud.table, lambda: _table_fault(cloud)))
    if settings.cognito is not None:
        cognito = settings.cognito
        checks.append(("user pool", cognito.pool.pool_id, lambda: _pool_fault(cloud, cognito)))
    if not checks:
        return []
    with ThreadPoolExecutor(len(checks)) as pool:  # each may have to wait for a timeout
        findings = pool.map(lambda check: check[2](), checks)
        return [
            Examined(name, place, found) for (name, place, _), found in zip(checks, findings, strict=True)
        ]


def find_faults(settings: Settings) -> list[Finding]:
    """What is wrong in the cloud for a server with these settings."""
    return [examined.finding for examined in examine(settings) if examined.finding]


def make_stores(settings: Settings) -> Iterator[str]:
    """Create bucket and table if they are missing, as Terraform does; gives messages about what was created.

    For development and for S3-compatible services. Existing ones are not changed.
    """
    cloud = Cloud(settings)
    if _missing(lambda: cloud.s3.head_bucket(Bucket=cloud.place.bucket)):
        _make_bucket(cloud)
        yield f"made the bucket {cloud.place.bucket}"
    if cloud.place.heads is Heads.S3:
        return
    if _missing(lambda: cloud.dynamodb.describe_table(TableName=cloud.place.table)):
        _make_table(cloud)
        yield f"made the table {cloud.place.table}"


def _make_bucket(cloud: Cloud) -> None:
    """Create a bucket (private by default); on AWS with rules that delete old uploads and host keys."""
    client, bucket, prefix = cloud.s3, cloud.place.bucket, cloud.place.prefix
    region = client.meta.region_name
    where = {} if region in {"us-east-1", "aws-global"} else {"LocationConstraint": region}
    client.create_bucket(Bucket=bucket, **({"CreateBucketConfiguration": where} if where else {}))
    if "amazonaws.com" not in client.meta.endpoint_url:
        # Other services may treat these rules differently: one ignored the prefix of a rule (rustfs/rustfs
        # issue 7456), so that its expiration would delete collections. Without the rules little space is
        # wasted.
        return
    rules: list[dict[str, Any]] = [
        {
            "ID": "uploads-left-behind",
            "Status": "Enabled",
            "Filter": {"Prefix": prefix},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _ABORT_AFTER_DAYS},
        }
    ]
    if cloud.place.heads is Heads.S3:
        rules.append(
            {
                "ID": "host-keys-not-used",
                "Status": "Enabled",
                "Filter": {"Prefix": prefix + keys_s3.FOLDER},
                "Expiration": {"Days": IDLE_MS // 1000 // _DAY_S},
            }
        )
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})


def _make_table(cloud: Cloud) -> None:
    client, table = cloud.dynamodb, cloud.place.table
    client.create_table(**heads_dynamodb.table_definition(table))
    client.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
    ends = {"Enabled": True, "AttributeName": TTL_ATTRIBUTE}
    client.update_time_to_live(TableName=table, TimeToLiveSpecification=ends)


def _missing(look: Callable[[], Any]) -> bool:
    try:
        look()
    except ClientError as exc:
        if exc.response["Error"]["Code"] in {"404", "NoSuchBucket", "ResourceNotFoundException"}:
            return True
        raise
    return False


def _bucket_fault(cloud: Cloud) -> Finding | None:
    bucket = cloud.place.bucket
    try:
        if _missing(lambda: cloud.s3.head_bucket(Bucket=bucket)):
            return Finding(f"there is no bucket {bucket!r} (ANKISYNCD_S3_BUCKET); ankisyncctl init makes it")
        fault = _probe(cloud)
    except CLOUD_ERRORS as exc:
        reason = "it is another account's, or the rights are missing" if _status(exc) == _FORBIDDEN else exc
        # Heads in a bucket rely on its conditional writes, which must have been tested.
        passes = _is_passing(exc) and cloud.place.heads is Heads.DYNAMODB
        text = f"the bucket {bucket!r} cannot be used: {reason} (ANKISYNCD_S3_BUCKET)"
        return Finding(text, is_fatal=not passes)
    if fault is None:
        return None
    return Finding(f"the bucket {bucket!r} cannot be used: {fault} (ANKISYNCD_S3_BUCKET)")


def _probe(cloud: Cloud) -> str | None:
    """Test the operations that the server needs, with an object of its own; returns the fault, or None.

    Head records and host keys in the bucket need conditional writes: a service that ignores conditions
    would lose updates silently.
    """
    at = {"Bucket": cloud.place.bucket, "Key": f"{cloud.place.prefix}probe/{secrets.token_hex(8)}"}
    content = secrets.token_bytes(16)

    def put(**condition: str) -> str | None:
        """Put the object; returns its ETag, or None if the condition failed."""
        try:
            etag: str = cloud.s3.put_object(**at, Body=content, **condition)["ETag"]
        except ClientError as exc:
            if _status(exc) in _CONDITION_FAILED:
                return None
            raise
        return etag

    try:
        etag = put()
        if cloud.s3.get_object(**at)["Body"].read() != content:
            return "it gives back other bytes than it was given"
        if cloud.place.heads is Heads.DYNAMODB:
            return None
        # The object exists, so this must fail.
        if put(IfNoneMatch="*") is not None:
            return "it ignores If-None-Match: head records in it could be lost; use a table or another store"
        # A wrong ETag must fail, too.
        if put(IfMatch=f'"{secrets.token_hex(16)}"') is not None:
            return "it ignores If-Match: head records in it could be lost; use a table or another store"
        # Some services want ETags without quotes.
        if etag is None or (put(IfMatch=etag) is None and put(IfMatch=etag.strip('"')) is None):
            return "it does not take If-Match with its own ETag: no head record in it could be changed"
    finally:
        with suppress(*CLOUD_ERRORS):  # without the right to delete, one small object stays
            cloud.s3.delete_object(**at)
    return None


def _table_fault(cloud: Cloud) -> Finding | None:
    table = cloud.place.table
    try:
        found = cloud.dynamodb.describe_table(TableName=table)["Table"]
    except CLOUD_ERRORS as exc:
        if isinstance(exc, ClientError) and exc.response["Error"]["Code"] == "ResourceNotFoundException":
            return Finding(
                f"there is no table {table!r} (ANKISYNCD_DYNAMODB_TABLE); ankisyncctl init makes it"
            )
        text = f"the table {table!r} cannot be used: {exc} (ANKISYNCD_DYNAMODB_TABLE)"
        return Finding(text, is_fatal=not _is_passing(exc))
    wanted = heads_dynamodb.table_definition(table)
    if found["KeySchema"] != wanted["KeySchema"]:
        return Finding(f"the table {table!r} has another key than the string 'pk' (ANKISYNCD_DYNAMODB_TABLE)")
    indexes = {index["IndexName"] for index in found.get("GlobalSecondaryIndexes", ())}
    if heads_dynamodb.LISTING_INDEX not in indexes:
        return Finding(f"the table {table!r} has no index 'listing' (ANKISYNCD_DYNAMODB_TABLE)")
    return None


def _pool_fault(cloud: Cloud, cognito: CognitoSettings) -> Finding | None:
    """The fault of the user pool, or None. If it does not answer, that is not fatal: host keys stay valid."""
    pool = cognito.pool.pool_id
    try:
        fault = cloud.directory(cognito).check()
    except ServiceUnavailable as exc:
        return Finding(
            f"the user pool {pool!r} is away: {exc}; until it is back nobody can log in", is_fatal=False
        )
    except CLOUD_ERRORS as exc:
        fault = str(exc)
    return (
        Finding(f"the user pool {pool!r} cannot be used: {fault} (COGNITO_USER_POOL_ID)") if fault else None
    )


def _status(error: Exception) -> int:
    """The HTTP status of an error; 0 if there was no answer."""
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_passing(error: Exception) -> bool:
    """Whether a service answered with a temporary error.

    No answer does not count as temporary, as it may be due to a misspelt endpoint.
    """
    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    return _status(error) >= _SERVER_ERROR or code in {"ThrottlingException", "Throttling", "SlowDown"}
