"""The contracts of bucket and table, on what the plan declares and with the task's rights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from app.auth.attempts import LoginAttempts
from app.auth.aws.dynamodb import DynamoCounts
from app.auth.aws.table import DynamoTable
from storage.heads import dynamodb
from storage.heads.dynamodb import DynamoHeadStore
from storage.objects import s3
from storage.objects.s3 import S3ObjectStore
from tests.contracts.test_head_store import *  # noqa: F403
from tests.contracts.test_login_attempts_contract import *  # noqa: F403
from tests.contracts.test_login_attempts_contract import LIMITS
from tests.contracts.test_object_store import *  # noqa: F403

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Heads:
    def __init__(self, cloud) -> None:
        self._cloud = cloud

    def open(self) -> DynamoHeadStore:
        return DynamoHeadStore(self._cloud.client("dynamodb", dynamodb.client_config(4)), self._cloud.table)


class Objects:
    def __init__(self, cloud) -> None:
        self._cloud = cloud

    def open(self) -> S3ObjectStore:
        # The contract deletes too, which is the right of maintenance alone.
        client = self._cloud.client("s3", s3.client_config(16), self._cloud.maintain)
        return S3ObjectStore(client, self._cloud.bucket, "")


@pytest.fixture
def object_backend(cloud) -> Objects:
    return Objects(cloud)


@pytest.fixture
def objects(object_backend) -> S3ObjectStore:
    return object_backend.open()


@pytest.fixture
def head_backend(cloud) -> Heads:
    return Heads(cloud)


@pytest.fixture
def heads(head_backend) -> DynamoHeadStore:
    return head_backend.open()


@pytest.fixture(scope="session")
def hours() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def pair(cloud, clock, hours) -> tuple[LoginAttempts, ...]:
    """The counter as two processes see it; each test has a day of its own in the shared table."""
    clock.now_ms += 86_400_000 * next(hours)
    table = DynamoTable(cloud.client("dynamodb"), cloud.table)
    return tuple(LoginAttempts(DynamoCounts(table), clock, LIMITS) for _ in range(2))
