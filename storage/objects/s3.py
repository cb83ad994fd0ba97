"""The object store in a bucket of S3, or of a compatible service.

Every write can simply be repeated, since a key only ever gets the same bytes, so the SDK's retries are
safe. The exception is the completion of a multipart upload: see `_complete`.
"""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from botocore.config import Config
from botocore.exceptions import ClientError

from storage.aws import code_of, mapped
from storage.errors import NotFound, StorageError, Unavailable
from storage.objects.base import ObjectStat
from storage.objects.keys import check_key, check_prefix, check_range
from storage.types import Offload, run_inline

_PIECE_BYTES: Final = 1 << 20
"""Size of the pieces of a stream; each is one request."""
_PIECES_AHEAD: Final = 12
"""Pieces requested at the same time: one request to S3 gives some 50 MB/s, after 20 ms or more."""
_SINGLE_PUT_BYTES: Final = 64 << 20
_PART_BYTES: Final = 8 << 20
_PARTS_AHEAD: Final = 3
_PARTS: Final = 10_000
"""The most parts that S3 accepts; a larger file gets larger parts."""
_HASHED_AT_ONCE_BYTES: Final = 64 << 10
"""Larger contents are hashed off the event loop."""
_BEHIND_THE_END: Final = frozenset({"InvalidRange", "416"})
_DELETED_AT_ONCE: Final = 1000
_ATTEMPTS: Final = 3
"""Attempts of a read whose body breaks off: the SDK retries only failures before the body."""


def client_config(connections: int) -> Config:
    """The settings of the client that `S3ObjectStore` and `S3HeadStore` expect.

    The SDK's own checksums are off, as they come as trailers that not every service understands; the store
    sends checksums in headers, which S3 verifies.
    """
    return Config(
        max_pool_connections=connections,
        connect_timeout=3,
        read_timeout=10,
        retries={"mode": "standard", "total_max_attempts": 3},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
    )


A = TypeVar("A")
B = TypeVar("B")

_Keys = list[str]
_Parts = list[dict[str, Any]]


class S3ObjectStore:
    """The object store of a bucket. `prefix` is empty or ends with `/`.

    Requests that are made in parallel run in a pool of `parallel` threads; under gevent these are greenlets.
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        prefix: str = "",
        *,
        offload: Offload[Any] = run_inline,
        parallel: int = 16,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._offload = offload
        self._pool = ThreadPoolExecutor(parallel, thread_name_prefix="s3")

    def put(self, key: str, content: bytes | memoryview) -> None:
        check_key(key)
        self._put(key, bytes(content))

    def put_many(self, items: Iterable[tuple[str, bytes | memoryview]]) -> None:
        batch = list(items)
        for key, _ in batch:
            check_key(key)
        if len(batch) == 1:
            self.put(*batch[0])
            return
        self.in_parallel(lambda item: self._put(item[0], bytes(item[1])), batch)

    def put_file(self, key: str, path: Path) -> None:
        check_key(key)
        with _opened(key, path) as file:
            size = path.stat().st_size
            if size > _SINGLE_PUT_BYTES:
                self._put_parts(key, file, size)
                return
            digest = self._offload(lambda: hashlib.file_digest(file, "sha256").digest())
            file.seek(0)
            with mapped(key):
                self._client.put_object(**self._at(key), Body=file, ChecksumSHA256=_base64(digest))

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        check_key(key)
        check_range(start, length)
        # HTTP has no empty range.
        if length == 0:
            if self.find(key) is None:
                raise NotFound(key)
            return b""
        if start == 0 and length is None:
            return self._read(key, None)
        end = "" if length is None else str(start + length - 1)
        return self._read(key, f"bytes={start}-{end}")

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        for key in keys:
            check_key(key)
        return self.in_parallel(self._find_content, keys)

    def in_parallel(self, function: Callable[[A], B], items: Sequence[A]) -> list[B]:
        """Apply a function to all items in parallel, and return the results in order.

        Waits for all; raises the exception of the first item that has one. The function runs in this store's
        pool, so it must not call a method that waits for the pool itself (such as `read_many`).
        """
        running = [self._pool.submit(function, item) for item in items]
        wait(running)
        return [one.result() for one in running]

    def _find_content(self, key: str) -> bytes | None:
        with suppress(NotFound):
            return self._read(key, None)
        return None

    def stream(self, key: str) -> Iterator[bytes]:
        check_key(key)
        pieces = self._pieces(key)
        next(pieces)  # requests the first piece, so that NotFound is raised here
        return pieces

    def find(self, key: str) -> ObjectStat | None:
        check_key(key)
        try:
            with mapped(key):
                answer = self._client.head_object(**self._at(key))
        except NotFound:
            return None
        return ObjectStat(
            key, answer["ContentLength"], _milliseconds(answer["LastModified"]), _date_ms(answer)
        )

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        check_prefix(prefix)
        return self._list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        batch: list[str] = []
        for key in keys:
            check_key(key)
            batch.append(key)
            if len(batch) == _DELETED_AT_ONCE:
                self._delete(batch)
                batch = []
        if batch:
            self._delete(batch)

    def delete_old(self, keys: Sequence[str], before_ms: int) -> Sequence[str]:
        for key in keys:
            check_key(key)
        asked = [self._pool.submit(self._delete_if_old, key, before_ms) for key in keys]
        wait(asked)
        return [key for key, answer in zip(keys, asked, strict=True) if answer.result()]

    def _delete_if_old(self, key: str, before_ms: int) -> bool:
        """Read the age, then delete. No condition can join the two: writing the same bytes keeps the ETag."""
        stat = self.find(key)
        if stat is None or stat.modified_ms >= before_ms:
            return False
        with mapped(key):
            self._client.delete_object(**self._at(key))
        return True

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _put(self, key: str, content: bytes) -> None:
        digest = self._digest(content)
        with mapped(key):
            self._client.put_object(**self._at(key), Body=content, ChecksumSHA256=_base64(digest))

    def _digest(self, content: bytes) -> bytes:
        if len(content) <= _HASHED_AT_ONCE_BYTES:
            return hashlib.sha256(content).digest()
        digest: bytes = self._offload(lambda: hashlib.sha256(content).digest())
        return digest

    def _put_parts(self, key: str, file: BufferedReader, size: int) -> None:
        with mapped(key):
            # Parts have their own checksums, which S3 combines into one of the object.
            answer = self._client.create_multipart_upload(**self._at(key), ChecksumAlgorithm="SHA256")
        upload = {**self._at(key), "UploadId": answer["UploadId"]}
        try:
            parts = self._upload_parts(key, upload, file, max(_PART_BYTES, -(-size // _PARTS)))
            self._complete(key, upload, parts, size)
        except BaseException:
            with suppress(StorageError), mapped(key):
                # Parts of an upload that is neither completed nor aborted stay, and cost money.
                self._client.abort_multipart_upload(**upload)
            raise

    def _upload_parts(
        self, key: str, upload: dict[str, str], file: BufferedReader, part_bytes: int
    ) -> _Parts:
        """Upload all parts, a few at a time; only these are in memory."""
        parts: _Parts = []
        running: deque[Future[dict[str, Any]]] = deque()
        number = 0
        try:
            while content := self._offload(lambda: file.read(part_bytes)):
                number += 1
                running.append(self._pool.submit(self._upload_part, key, upload, number, content))
                # Wait for the oldest part before the next one is read, which limits the memory.
                if len(running) == _PARTS_AHEAD:
                    parts.append(running.popleft().result())
            parts += [part.result() for part in running]
        finally:
            _settle(running)
        return parts

    def _upload_part(self, key: str, upload: dict[str, str], number: int, content: bytes) -> dict[str, Any]:
        digest = _base64(self._digest(content))
        with mapped(f"{key}, part {number}"):
            answer = self._client.upload_part(
                **upload, PartNumber=number, Body=content, ChecksumSHA256=digest
            )
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": digest}

    def _complete(self, key: str, upload: dict[str, str], parts: _Parts, size: int) -> None:
        try:
            with mapped(key):
                self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        except StorageError:
            # If the SDK repeats a completion that was done, S3 answers that there is no such upload. A key
            # has only one content, so it is enough that the object exists with the right size.
            found = self.find(key)
            if found is None or found.size_bytes != size:
                raise

    def _read(self, key: str, wanted: str | None) -> bytes:
        return self._get(key, wanted)[0]

    def _get(self, key: str, wanted: str | None) -> tuple[bytes, int]:
        """(content of the range, size of the object); no bytes and 0 if the range starts after the end."""
        ranged = {} if wanted is None else {"Range": wanted}
        for attempt in range(_ATTEMPTS):
            try:
                with mapped(key):
                    answer = self._client.get_object(**self._at(key), **ranged)
            except StorageError as exc:
                if isinstance(exc.__cause__, ClientError) and code_of(exc.__cause__) in _BEHIND_THE_END:
                    return b"", 0
                raise
            try:
                with mapped(key), closing(answer["Body"]) as body:
                    content: bytes = body.read()
            except Unavailable:
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                # "bytes 0-1048575/5000000": the size of the object is behind the slash.
                total = answer.get("ContentRange", "").rpartition("/")[2]
                return content, int(total or len(content))
        raise AssertionError

    def _pieces(self, key: str) -> Iterator[bytes]:
        """An empty piece once the first one was received; then all pieces, several requested ahead."""
        first, total = self._get(key, f"bytes=0-{_PIECE_BYTES - 1}")
        # The first request has returned the total size, so all other ranges are known now.
        starts = iter(range(len(first), total, _PIECE_BYTES))
        ahead: deque[Future[bytes]] = deque()
        try:
            yield b""
            ahead += [self._ask(key, start, total) for start in islice(starts, _PIECES_AHEAD)]
            if first:
                yield first
            while ahead:
                piece = _whole(key, ahead.popleft())
                # One more request for each piece that was received.
                ahead += [self._ask(key, start, total) for start in islice(starts, 1)]
                yield piece
        finally:
            for asked in ahead:
                asked.cancel()

    def _ask(self, key: str, start: int, total: int) -> Future[bytes]:
        end = min(start + _PIECE_BYTES, total) - 1
        return self._pool.submit(self._read, key, f"bytes={start}-{end}")

    def _list(self, prefix: str) -> Iterator[ObjectStat]:
        request = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        while True:
            with mapped(f"objects under {prefix}"):
                answer = self._client.list_objects_v2(**request)
            for found in answer.get("Contents", ()):
                key = found["Key"].removeprefix(self._prefix)
                yield ObjectStat(key, found["Size"], _milliseconds(found["LastModified"]))
            if not answer.get("IsTruncated"):
                return
            request["ContinuationToken"] = answer["NextContinuationToken"]

    def _delete(self, keys: _Keys) -> None:
        objects = [{"Key": self._prefix + key} for key in keys]
        with mapped(f"{keys[0]} and {len(keys) - 1} more"):
            answer = self._client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True}
            )
        for error in answer.get("Errors", ()):
            # A missing object is no error of a delete.
            if error.get("Code") != "NoSuchKey":
                raise Unavailable(f"{error.get('Key')}: {error.get('Code')} {error.get('Message')}")


def _settle(running: deque[Future[dict[str, Any]]]) -> None:
    """Cancel uploads of parts and wait for those in progress: none may run after the abort."""
    for one in running:
        one.cancel()
    wait(running)


def _whole(key: str, piece: Future[bytes]) -> bytes:
    try:
        return piece.result()
    except NotFound as exc:
        raise Unavailable(f"{key}: deleted while it was read") from exc


@contextmanager
def _opened(key: str, path: Path) -> Iterator[BufferedReader]:
    try:
        file = path.open("rb")
    except FileNotFoundError as exc:
        raise NotFound(f"{path}, to be put as {key}") from exc
    with file:
        yield file


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _date_ms(answer: dict[str, Any]) -> int | None:
    """The time by the store's clock, from the answer's `Date` header."""
    try:
        date = answer["ResponseMetadata"]["HTTPHeaders"]["date"]
        return _milliseconds(parsedate_to_datetime(date))
    except (KeyError, ValueError):
        return None


def _milliseconds(time: datetime) -> int:
    """Rounded down to the second: some services list fractions of it, but none gives them for a HEAD."""
    return int(time.timestamp()) * 1000
