"""Clients and stores against an engine on this machine, also from another process."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import boto3
from botocore.config import Config

from storage.awsclient import DirectDynamoDB, DirectS3
from storage.heads import dynamodb
from storage.heads.dynamodb import DynamoHeadStore
from storage.heads.s3 import S3HeadStore
from storage.objects import s3 as objects_s3
from storage.objects.s3 import S3ObjectStore

REGION = "eu-central-1"
ACCESS_KEY = "testing"
"""And the secret, too."""


@cache
def _session():
    """One for the process: it reads the descriptions of the services once."""
    return boto3.Session()


def client(service: str, endpoint: str, config: Config | None = None):
    """A client with made-up credentials; only a local engine takes them."""
    return _session().client(
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=ACCESS_KEY,
        config=config,
    )


def s3_client(endpoint: str):
    path_style = Config(s3={"addressing_style": "path"})
    return DirectS3(client("s3", endpoint, objects_s3.client_config(16).merge(path_style)))


def new_bucket(endpoint: str, region: str | None = REGION) -> str:
    bucket = f"bucket-{uuid.uuid4().hex}"
    where = {"CreateBucketConfiguration": {"LocationConstraint": region}} if region else {}
    s3_client(endpoint).create_bucket(Bucket=bucket, **where)
    return bucket


def s3_objects(endpoint: str, bucket: str, prefix: str = "") -> S3ObjectStore:
    return S3ObjectStore(s3_client(endpoint), bucket, prefix)


def dynamodb_client(endpoint: str):
    return DirectDynamoDB(client("dynamodb", endpoint, dynamodb.client_config(16)))


def new_table(endpoint: str) -> str:
    table = f"table-{uuid.uuid4().hex}"
    dynamo = client("dynamodb", endpoint)
    dynamo.create_table(**dynamodb.table_definition(table))
    dynamo.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1})
    return table


def dynamo_heads(endpoint: str, table: str) -> DynamoHeadStore:
    return DynamoHeadStore(dynamodb_client(endpoint), table)


def s3_heads(endpoint: str, bucket: str, prefix: str) -> S3HeadStore:
    return S3HeadStore(s3_client(endpoint), bucket, prefix)


@contextmanager
def moto(delays_ms: dict[str, float] | None = None) -> Iterator[str]:
    """moto in a process of its own; its address. Delays are by service: s3, dynamodb, cognito."""
    command = [sys.executable, "-m", "tests.support.moto_server", "0", json.dumps(delays_ms or {})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()
            process.wait(timeout=10)
