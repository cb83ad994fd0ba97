"""The head store in a bucket, for installations with an S3-compatible service and no DynamoDB.

A write reads the record, applies a function of `storage.heads.transitions`, and puts the result on
condition that the record's ETag has not changed. Every put has a random id, so that a writer whose answer
was lost can tell from the record whether it is its own. See `storage/README.md`, "Heads in S3".
"""

from __future__ import annotations

import base64
import hashlib
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Final

import msgspec
from botocore.exceptions import ClientError

from storage.aws import code_of, mapped, status_of
from storage.errors import Corrupt, NotFound, StorageError, Unavailable
from storage.heads import transitions
from storage.heads.base import HeadUpdate, NewSession, SessionUpdate
from storage.heads.keys import check_user, databases_of
from storage.types import ChainEntry, DatabaseId, DatabaseKind, Head, JournalEntry, UserId

_MAGIC: Final = b"AnkH"
FORMAT_VERSION: Final = 1
_WRITE_ID_BYTES: Final = 16
_DIGEST_BYTES: Final = 16
_WRITE_ID_AT: Final = len(_MAGIC) + 1 + _DIGEST_BYTES
_HEAD_AT: Final = _WRITE_ID_AT + _WRITE_ID_BYTES
_READS: Final = 3
"""Attempts of a read whose bytes arrive damaged."""
_READS_AT_ONCE: Final = 32
_ATTEMPTS: Final = 40
"""Each failed attempt means that another writer succeeded; so many in a row on one record mean a fault."""
_LONGEST_PAUSE: Final = 0.2
"""The longest pause between attempts, in seconds. It is random: otherwise the slowest writer could starve."""


class _Record(msgspec.Struct, frozen=True):
    head: Head
    write_id: bytes
    etag: str


class S3HeadStore:
    """The head store of a bucket. `prefix` is empty or ends with `/`."""

    def __init__(
        self,
        client: Any,
        bucket: str,
        prefix: str = "",
        *,
        write_id: Callable[[], bytes] = lambda: secrets.token_bytes(_WRITE_ID_BYTES),
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix + "heads/"
        self._write_id = write_id
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Head)
        self._bare_etags = False
        self._pool = ThreadPoolExecutor(_READS_AT_ONCE, thread_name_prefix="heads")

    def find(self, database: DatabaseId) -> Head | None:
        return _head(self._read(database))

    def find_many(self, databases: Sequence[DatabaseId]) -> list[Head | None]:
        asked = [self._pool.submit(self.find, database) for database in databases]
        wait(asked)
        return [answer.result() for answer in asked]

    def open_session(self, database: DatabaseId, session: NewSession) -> Head:
        return self._change(
            database,
            lambda head: transitions.open_session(head, session),
            lambda head: transitions.has_opened(head, session),
        )

    def append(self, database: DatabaseId, session_id: str, entry: JournalEntry) -> Head:
        return self._change(
            database,
            lambda head: transitions.append(head, session_id, entry),
            lambda head: transitions.has_appended(head, session_id, entry),
        )

    def update_session(
        self, database: DatabaseId, token: int, session_id: str, seq: int, update: SessionUpdate
    ) -> Head:
        return self._change(
            database,
            lambda head: transitions.update_session(head, token, session_id, seq, update),
            lambda head: transitions.has_updated(head, token, session_id, seq, update),
        )

    def close_session(self, database: DatabaseId, token: int, session_id: str) -> bool:
        try:
            self._change(
                database,
                lambda head: _closed(head, token, session_id),
                lambda head: head is not None and head.token == token and head.session is None,
            )
        except _NotRunning:
            return False
        return True

    def advance_head(self, database: DatabaseId, update: HeadUpdate) -> Head:
        return self._change(
            database,
            lambda head: transitions.advance_head(head, update),
            lambda head: transitions.was_applied(head, update),
        )

    def replace_chain(
        self, database: DatabaseId, token: int, chain_revision: int, chain: tuple[ChainEntry, ...]
    ) -> Head:
        return self._change(
            database,
            lambda head: transitions.replace_chain(head, token, chain_revision, chain),
            lambda head: transitions.has_replaced(head, token, chain_revision, chain),
        )

    def replace_head(self, database: DatabaseId, found: Head | None, head: Head) -> None:
        self._change(
            database,
            lambda before: transitions.replace_head(before, found, head),
            lambda before: before == head,
        )

    def list(self, user: UserId | None = None) -> Iterator[DatabaseId]:
        return self._list(0) if user is None else databases_of(user, self.find)

    def list_changed(self, since_ms: int) -> Iterator[DatabaseId]:
        return self._list(since_ms)

    def settle(self, database: DatabaseId, chain_revision: int) -> None:
        """Does nothing: `list_changed` goes by the time of the last write."""

    def delete(self, database: DatabaseId) -> None:
        with mapped(str(database)):
            self._client.delete_object(**self._at(database))

    def _list(self, since_ms: int) -> Iterator[DatabaseId]:
        """Databases whose record was written at a time or later; `!` sorts before all of a user id."""
        request = {"Bucket": self._bucket, "Prefix": self._prefix}
        while True:
            with mapped(f"heads under {self._prefix}"):
                answer = self._client.list_objects_v2(**request)
            for found in answer.get("Contents", ()):
                # S3 gives whole seconds.
                if found["LastModified"].timestamp() < since_ms // 1000:
                    continue
                user, _, kind = found["Key"].removeprefix(self._prefix).rpartition("!")
                yield DatabaseId(UserId(user), DatabaseKind(kind))
            if not answer.get("IsTruncated"):
                return
            request["ContinuationToken"] = answer["NextContinuationToken"]

    def _at(self, database: DatabaseId) -> dict[str, str]:
        check_user(database.user)
        return {"Bucket": self._bucket, "Key": f"{self._prefix}{database.user}!{database.kind.value}"}

    def _change(
        self,
        database: DatabaseId,
        transition: Callable[[Head | None], Head],
        landed: Callable[[Head | None], bool] = lambda _: False,
    ) -> Head:
        """Apply a transition to the record, and return the head after it. Raises what `transition` does.

        `landed(head)` is whether a head shows that an earlier attempt was applied.
        """
        record = self._read(database)
        attempted: set[bytes] = set()
        for attempt in range(_ATTEMPTS):
            before = _head(record)
            # An earlier attempt, whose answer was lost, was applied, and other writes followed it.
            if before is not None and attempted and landed(before):
                return before
            after = transition(before)
            if after is before:
                return after
            # New for each attempt, so that the record shows which attempt was applied.
            write_id = self._write_id()
            attempted.add(write_id)
            fault = self._try_write(database, after, write_id, record)
            if fault is None:
                return after
            again = self._read(database)
            # The record is this writer's own.
            if again is not None and again.write_id in attempted:
                return again.head
            # It may still be applied after this read, so trying again could apply it twice.
            if isinstance(fault, Unavailable) and not landed(_head(again)):
                raise fault
            if self._learn_etags(fault, record, again):
                attempted.discard(write_id)  # refused: the record is as it was before
            else:
                # Exponential back-off with full jitter.
                longest = min(_LONGEST_PAUSE, 0.002 * 2**attempt)
                time.sleep(random.uniform(0, longest))  # noqa: S311  nothing to guess
                again = self._read(database)
            record = again
        raise Unavailable(f"{database}: no agreement on the record")

    def _try_write(
        self, database: DatabaseId, head: Head, write_id: bytes, over: _Record | None
    ) -> StorageError | None:
        """Replace the record that was read; returns None, or the error if the write can be tried again.

        `Unavailable` means that it may have been applied; any other `StorageError` that another writer was
        faster.
        """
        told = write_id + self._encoder.encode(head)
        body = b"".join((_MAGIC, bytes([FORMAT_VERSION]), _digest(told), told))
        # Replace exactly the record that was read, or create it.
        guard = {"IfMatch": self._spelt(over.etag)} if over else {"IfNoneMatch": "*"}
        try:
            with mapped(str(database)):
                whole = base64.b64encode(hashlib.sha256(body).digest()).decode()
                self._client.put_object(**self._at(database), Body=body, ChecksumSHA256=whole, **guard)
        except Unavailable as exc:
            return exc
        except StorageError as exc:
            failure = exc.__cause__
            lost = isinstance(failure, ClientError) and (
                status_of(failure) in {404, 409, 412} or code_of(failure) in _LOST
            )
            if not lost:
                raise
            return exc
        return None

    def _read(self, database: DatabaseId) -> _Record | None:
        for attempt in range(_READS):
            try:
                with mapped(str(database)):
                    answer = self._client.get_object(**self._at(database))
                    body: bytes = answer["Body"].read()
                return self._decode(database, body, answer["ETag"])
            except NotFound:
                return None
            except (Corrupt, Unavailable):
                if attempt == _READS - 1:
                    raise
        raise AssertionError

    def _decode(self, database: DatabaseId, body: bytes, etag: str) -> _Record:
        magic, version, told = body[: len(_MAGIC)], body[len(_MAGIC) : len(_MAGIC) + 1], body[_WRITE_ID_AT:]
        if magic != _MAGIC or not version:
            raise Corrupt(str(database), "a head record", magic)
        if version[0] != FORMAT_VERSION:
            raise StorageError(
                f"{database}: the record has format version {version[0]}, not {FORMAT_VERSION}"
            )
        if (found := _digest(told)) != (expected := body[len(_MAGIC) + 1 : _WRITE_ID_AT]):
            raise Corrupt(str(database), expected.hex(), found.hex())
        try:
            head = self._decoder.decode(memoryview(body)[_HEAD_AT:])
        except msgspec.MsgspecError as exc:
            raise Corrupt(str(database), "a head record", str(exc)) from exc
        return _Record(head, body[_WRITE_ID_AT:_HEAD_AT], etag)

    def _spelt(self, etag: str) -> str:
        return etag.strip('"') if self._bare_etags else etag

    def _learn_etags(self, fault: StorageError, read: _Record | None, again: _Record | None) -> bool:
        """Change between ETags with and without quotes if a condition failed on an unchanged record.

        Returns whether that was so. Source: Ceph's radosgw 16 compares `If-Match` with the ETag without
        quotes.
        """
        failure = fault.__cause__
        refused = isinstance(failure, ClientError) and status_of(failure) == 412
        if refused and read is not None and again is not None and read.etag == again.etag:
            self._bare_etags = not self._bare_etags
            return True
        return False


_LOST: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})


def _digest(told: bytes) -> bytes:
    return hashlib.sha256(told).digest()[:_DIGEST_BYTES]


def _head(record: _Record | None) -> Head | None:
    return None if record is None else record.head


class _NotRunning(Exception):
    """The session to be closed is not running."""


def _closed(head: Head | None, token: int, session_id: str) -> Head:
    after = transitions.close_session(head, token, session_id)
    if after is None:
        raise _NotRunning
    return after
