"""The backends that every contract suite runs over. A new backend adds one class to a table here.

`objects` and `heads` are a fresh store each; `object_backend` and `head_backend` open further
views of the same store, as other workers would have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from storage.heads.base import HeadStore
from storage.heads.local import LocalHeadStore
from storage.heads.memory import MemoryHeadStore
from storage.objects.base import ObjectStore
from storage.objects.local import LocalObjectStore
from storage.objects.memory import MemoryObjectStore
from storage.objects.write_ahead import WriteAheadLog
from storage.types import run_inline
from tests.support import aws
from tests.support.engines import (
    OTHER_ENGINE,
    dynalite_table,
    moto_bucket,
    moto_endpoint,
    moto_table,
    radosgw_bucket,
)

__all__ = ["dynalite_table", "moto_bucket", "moto_endpoint", "moto_table", "radosgw_bucket"]


class MemoryObjects:
    def __init__(self, folder: Path, request: pytest.FixtureRequest) -> None:
        self._store = MemoryObjectStore()

    def open(self) -> ObjectStore:
        return self._store

    def close(self) -> None:
        pass


class LocalObjects:
    def __init__(self, folder: Path, request: pytest.FixtureRequest) -> None:
        self._root = folder / "store"

    def open(self) -> ObjectStore:
        return LocalObjectStore(self._root, run_inline)

    def close(self) -> None:
        pass


class LocalObjectsAhead:
    """The same with a log of writes."""

    def __init__(self, folder: Path, request: pytest.FixtureRequest) -> None:
        self._root = folder / "store"
        self._logs: list[WriteAheadLog] = []

    def open(self) -> ObjectStore:
        self._logs.append(WriteAheadLog(self._root / "ahead", self._root / "objects"))
        return LocalObjectStore(self._root, run_inline, self._logs[-1])

    def close(self) -> None:
        for log in self._logs:
            log.close()


class S3Objects:
    BUCKET = "moto_bucket"

    def __init__(self, folder: Path, request: pytest.FixtureRequest) -> None:
        self._endpoint, self._bucket = request.getfixturevalue(self.BUCKET)

    def open(self) -> ObjectStore:
        return aws.s3_objects(self._endpoint, self._bucket, "some/prefix/")

    def close(self) -> None:
        pass


class MemoryHeads:
    WIRED = False
    """Whether each request goes over a wire: such backends get fewer of them."""

    def __init__(self, folder: Path, request: pytest.FixtureRequest) -> None:
        self._store = MemoryHeadStore()

    def open(self) -> HeadStore:
        return self._store

    def close(self) -> None:
        pass


class LocalHeads:
    WIRED = False

    def __init__(self, folder: Path, request: pytest.FixtureRequest) -> None:
        self._path = folder / "heads.db"
        self._open: list[LocalHeadStore] = []

    def open(self) -> HeadStore:
        self._open.append(LocalHeadStore(self._path, run_inline))
        return self._open[-1]

    def spec(self) -> Callable[[], HeadStore]:
        """What another process opens the same store with."""
        return partial(LocalHeadStore, self._path, run_inline)

    def close(self) -> None:
        for store in self._open:
            store.close()


class DynamoHeads:
    WIRED = True
    TABLE = "moto_table"

    def __init__(self, folder: Path, request: pytest.FixtureRequest) -> None:
        self._endpoint, self._table = request.getfixturevalue(self.TABLE)

    def open(self) -> HeadStore:
        return self.spec()()

    def spec(self) -> Callable[[], HeadStore]:
        return partial(aws.dynamo_heads, self._endpoint, self._table)

    def close(self) -> None:
        pass


class DynaliteHeads(DynamoHeads):
    TABLE = "dynalite_table"


class S3Heads:
    WIRED = True
    BUCKET = "moto_bucket"

    def __init__(self, folder: Path, request: pytest.FixtureRequest) -> None:
        self._endpoint, self._bucket = request.getfixturevalue(self.BUCKET)

    def open(self) -> HeadStore:
        return self.spec()()

    def spec(self) -> Callable[[], HeadStore]:
        return partial(aws.s3_heads, self._endpoint, self._bucket, "some/prefix/")

    def close(self) -> None:
        pass


class RadosgwObjects(S3Objects):
    BUCKET = "radosgw_bucket"


class RadosgwHeads(S3Heads):
    BUCKET = "radosgw_bucket"


OBJECT_BACKENDS = [
    pytest.param(MemoryObjects, id="memory"),
    pytest.param(LocalObjects, id="local"),
    pytest.param(LocalObjectsAhead, id="local-ahead"),
    pytest.param(S3Objects, id="s3"),
    pytest.param(RadosgwObjects, id="radosgw", marks=OTHER_ENGINE),
]
SHARED_HEAD_BACKENDS = [
    pytest.param(LocalHeads, id="local"),
    pytest.param(DynamoHeads, id="dynamodb"),
    pytest.param(S3Heads, id="s3"),
    pytest.param(DynaliteHeads, id="dynalite", marks=OTHER_ENGINE),
    pytest.param(RadosgwHeads, id="radosgw", marks=OTHER_ENGINE),
]
"""Those that several processes may use at once."""
HEAD_BACKENDS = [pytest.param(MemoryHeads, id="memory"), *SHARED_HEAD_BACKENDS]


@pytest.fixture(params=OBJECT_BACKENDS)
def object_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemoryObjects]:
    backend = request.param(tmp_path / "objects", request)
    yield backend
    backend.close()


@pytest.fixture
def objects(object_backend) -> ObjectStore:
    return object_backend.open()


@pytest.fixture(params=HEAD_BACKENDS)
def head_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemoryHeads]:
    (tmp_path / "heads").mkdir()
    backend = request.param(tmp_path / "heads", request)
    yield backend
    backend.close()


@pytest.fixture
def heads(head_backend) -> HeadStore:
    return head_backend.open()


@pytest.fixture(params=SHARED_HEAD_BACKENDS)
def shared_heads(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalHeads]:
    (tmp_path / "heads").mkdir()
    backend = request.param(tmp_path / "heads", request)
    yield backend
    backend.close()
