"""The store of host keys in a bucket, for installations with an S3-compatible service and no table.

One object per key, `hostkeys/<hash in hex>` under the prefix. An update is conditional on the ETag that
was read, so that a revoked key is not stored again; if the condition fails, the update is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from app.auth.hostkeys import KeyRecord
from app.auth.key_cache import KeyCache
from app.errors import ServiceUnavailable
from storage.types import UserId

FOLDER: Final = "hostkeys/"
_ABSENT: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_LOST: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})


class S3HostKeys:
    """See `app.auth.hostkeys.HostKeys`. A process sees a revocation up to `remember_ms` late."""

    def __init__(  # noqa: PLR0913 - by name
        self,
        client: Any,
        bucket: str,
        prefix: str,
        clock_ms: Callable[[], int],
        *,
        idle_ms: int,
        remember_ms: int = 30 * 1000,
    ) -> None:
        self._client, self._bucket, self._prefix = client, bucket, prefix + FOLDER
        self._clock_ms, self._idle_ms = clock_ms, idle_ms
        self._key_cache = KeyCache(remember_ms)

    def add(self, record: KeyRecord) -> None:
        self._call("put_object", **self._at(record.hash), Body=msgspec.msgpack.encode(record))

    def find(self, key_hash: bytes) -> KeyRecord | None:
        now_ms = self._clock_ms()
        record = self._key_cache.find(key_hash, now_ms)
        if record is not None:
            return record
        record, _ = self._read(key_hash)
        if record is None or record.used_ms + self._idle_ms <= now_ms:
            return None
        self._key_cache.add(record, now_ms)
        return record

    def touch(self, record: KeyRecord) -> None:
        found, etag = self._read(record.hash)
        self._key_cache.forget(record.hash)
        if found is None:
            return
        body = msgspec.msgpack.encode(record)
        # Some services want ETags without quotes.
        for spelt in (etag, etag.strip('"')):
            if self._call("put_object", **self._at(record.hash), Body=body, IfMatch=spelt) is not None:
                self._key_cache.add(record, self._clock_ms())
                return

    def revoke(self, key_hash: bytes) -> bool:
        self._key_cache.forget(key_hash)
        found, _ = self._read(key_hash)
        self._call("delete_object", **self._at(key_hash))
        return found is not None

    def revoke_all(self, user: UserId) -> int:
        return sum(self.revoke(record.hash) for record in list(self.list(user)))

    def list(self, user: UserId | None = None) -> Iterator[KeyRecord]:
        now_ms = self._clock_ms()
        found = (self._read(key_hash)[0] for key_hash in self._hashes())
        records = (record for record in found if record and record.used_ms + self._idle_ms > now_ms)
        chosen = (record for record in records if user is None or record.user == user)
        return iter(sorted(chosen, key=lambda record: (record.created_ms, record.hash)))

    def _hashes(self) -> Iterator[bytes]:
        request: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._prefix}
        while True:
            answer = self._call("list_objects_v2", **request) or {}
            for found in answer.get("Contents", ()):
                yield bytes.fromhex(found["Key"].removeprefix(self._prefix))
            if not answer.get("IsTruncated"):
                return
            request["ContinuationToken"] = answer["NextContinuationToken"]

    def _at(self, key_hash: bytes) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key_hash.hex()}

    def _read(self, key_hash: bytes) -> tuple[KeyRecord | None, str]:
        answer = self._call("get_object", **self._at(key_hash))
        if answer is None:
            return None, ""
        try:
            body = answer["Body"].read()
        except BotoCoreError as exc:
            raise ServiceUnavailable(f"the bucket does not answer: {type(exc).__name__}") from exc
        return msgspec.msgpack.decode(body, type=KeyRecord), answer["ETag"]

    def _call(self, operation: str, **parameters: Any) -> dict[str, Any] | None:
        """The answer; None if the object is missing, or if the condition failed."""
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(**parameters)
        except ClientError as exc:
            code = exc.response["Error"]["Code"]
            if code in _ABSENT or code in _LOST:
                return None
            raise ServiceUnavailable(f"the bucket: {code}") from exc
        except BotoCoreError as exc:
            raise ServiceUnavailable(f"the bucket does not answer: {type(exc).__name__}") from exc
        return answer
