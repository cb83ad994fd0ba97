"""Host keys and login attempts in a DynamoDB table, for many machines.

Refuses clever writes: one item each, single conditional updates. Items carry the time-to-live
attribute `expires` (s); DynamoDB removes them days late, so the code compares the time itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from app.auth.attempts import Attempt, Limits, bucket_of, network_of
from app.auth.hostkeys import KeyRecord
from app.auth.users import normal_name
from app.errors import RateLimited, ServiceUnavailable
from storage.types import UserId

_KEY_PREFIX = "hostkey#"
_ATTEMPT_PREFIX = "login#"
_SECRET_ITEM = "login-secret"  # noqa: S105 - the name of an item
_DAY_MS = 24 * 60 * 60 * 1000
IDLE_MS = 400 * _DAY_MS
"""A key that was not used for so long ends."""
TTL_ATTRIBUTE = "expires"


class DynamoTable:
    """One table with the string key `pk`; turns the SDK's errors into the app's.

    `client`: a boto3 client "dynamodb" with short timeouts.
    """

    def __init__(self, client: Any, table: str) -> None:
        self._client, self._table = client, table

    def find(self, key: str) -> dict[str, Any] | None:
        """The item, consistently read."""
        answer = self._call("get_item", Key={"pk": {"S": key}}, ConsistentRead=True)
        item: dict[str, Any] | None = answer.get("Item") if answer else None
        return item

    def put(self, item: dict[str, Any]) -> bool:
        """Write an item; False if there is one of that key."""
        return self._call("put_item", Item=item, ConditionExpression="attribute_not_exists(pk)") is not None

    def delete(self, key: str) -> bool:
        """Delete an item; False where there was none."""
        condition = "attribute_exists(pk)"
        return self._call("delete_item", Key={"pk": {"S": key}}, ConditionExpression=condition) is not None

    def update(
        self, key: str, change: str, condition: str, values: dict[str, Any], names: dict[str, str]
    ) -> bool:
        """Change an item; False where the condition does not hold."""
        answer = self._call(
            "update_item",
            Key={"pk": {"S": key}}, UpdateExpression=change, ConditionExpression=condition,
            ExpressionAttributeValues=values, ExpressionAttributeNames=names,
        )  # fmt: skip
        return answer is not None

    def scan(self, prefix: str) -> Iterator[dict[str, Any]]:
        """All items whose key begins with `prefix`: reads the whole table; for administration only."""
        start: dict[str, Any] = {}
        while True:
            answer = self._call(
                "scan",
                FilterExpression="begins_with(pk, :prefix)",
                ExpressionAttributeValues={":prefix": {"S": prefix}}, ConsistentRead=True, **start,
            )  # fmt: skip
            yield from answer["Items"] if answer else ()
            if not answer or "LastEvaluatedKey" not in answer:
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    def _call(self, operation: str, **parameters: Any) -> dict[str, Any] | None:
        """The answer; None where the condition does not hold."""
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(TableName=self._table, **parameters)
        except ClientError as exc:
            code = exc.response["Error"]["Code"]
            if code == "ConditionalCheckFailedException":
                return None
            raise ServiceUnavailable(f"DynamoDB: {code}") from exc
        except BotoCoreError as exc:
            raise ServiceUnavailable(f"DynamoDB does not answer: {type(exc).__name__}") from exc
        return answer


class RememberedKeys:
    """Keys that a process has found a short while ago, the latest `most` of them."""

    def __init__(self, remember_ms: int, most: int = 10_000) -> None:
        self._remember_ms, self._most = remember_ms, most
        self._kept: dict[bytes, tuple[int, KeyRecord]] = {}

    def find(self, key_hash: bytes, now_ms: int) -> KeyRecord | None:
        """The record, if it is young enough."""
        until_ms, record = self._kept.get(key_hash, (0, None))
        return record if now_ms < until_ms else None

    def add(self, record: KeyRecord, now_ms: int) -> None:
        """Remember a record as the store has it now."""
        self.forget(record.hash)
        while len(self._kept) >= self._most:
            del self._kept[next(iter(self._kept))]
        self._kept[record.hash] = (now_ms + self._remember_ms, record)

    def forget(self, key_hash: bytes) -> None:
        """Ask the store the next time."""
        self._kept.pop(key_hash, None)


class DynamoHostKeys:
    """See `app.auth.hostkeys.HostKeys`. A process may know of a revocation `remember_ms` late.

    That is what keeps a sync of seven requests at one read; a key not used for `idle_ms` ends.
    """

    def __init__(
        self,
        table: DynamoTable,
        clock_ms: Callable[[], int],
        *,
        idle_ms: int = IDLE_MS,
        remember_ms: int = 30 * 1000,
        remember_count: int = 10_000,
    ) -> None:
        self._table, self._clock_ms = table, clock_ms
        self._idle_ms = idle_ms
        self._remembered = RememberedKeys(remember_ms, remember_count)

    def add(self, record: KeyRecord) -> None:
        # An item that is there already is our own, from a try whose answer was lost.
        self._table.put(self._item_of(record))

    def find(self, key_hash: bytes) -> KeyRecord | None:
        now_ms = self._clock_ms()
        record = self._remembered.find(key_hash, now_ms)
        if record is not None:
            return record
        item = self._table.find(_key_of(key_hash))
        if item is None or int(item["expires"]["N"]) * 1000 <= now_ms:
            self._remembered.forget(key_hash)
            return None
        record = _record_of(item)
        self._remembered.add(record, now_ms)
        return record

    def touch(self, record: KeyRecord) -> None:
        values = {
            ":used": {"N": str(record.used_ms)},
            ":checked": {"N": str(record.checked_ms)},
            ":sealed": {"B": record.sealed},
            ":expires": {"N": str(self._expires_s(record))},
        }
        change = "SET used_ms = :used, checked_ms = :checked, sealed = :sealed, expires = :expires"
        if self._table.update(_key_of(record.hash), change, "attribute_exists(#pk)", values, {"#pk": "pk"}):
            self._remembered.add(record, self._clock_ms())
        else:
            self._remembered.forget(record.hash)

    def revoke(self, key_hash: bytes) -> bool:
        self._remembered.forget(key_hash)
        return self._table.delete(_key_of(key_hash))

    def revoke_all(self, user: UserId) -> int:
        return sum(self.revoke(record.hash) for record in list(self.list(user)))

    def list(self, user: UserId | None = None) -> Iterator[KeyRecord]:
        now_s = self._clock_ms() // 1000
        items = (item for item in self._table.scan(_KEY_PREFIX) if int(item["expires"]["N"]) > now_s)
        records = (_record_of(item) for item in items if user is None or item["user"]["S"] == user)
        return iter(sorted(records, key=lambda record: (record.created_ms, record.hash)))

    def _expires_s(self, record: KeyRecord) -> int:
        return (record.used_ms + self._idle_ms) // 1000

    def _item_of(self, record: KeyRecord) -> dict[str, Any]:
        return {
            "pk": {"S": _key_of(record.hash)},
            "user": {"S": record.user},
            "client": {"S": record.client},
            "created_ms": {"N": str(record.created_ms)},
            "used_ms": {"N": str(record.used_ms)},
            "checked_ms": {"N": str(record.checked_ms)},
            "sealed": {"B": record.sealed},
            "expires": {"N": str(self._expires_s(record))},
        }


class DynamoLoginAttempts:
    """See `app.auth.attempts.LoginAttempts`. Counts in fixed windows, one counter each.

    So at the seam of two windows up to twice the limit passes; in return each count is one atomic
    update and needs no agreement between clocks.
    """

    def __init__(self, table: DynamoTable, clock_ms: Callable[[], int], limits: Limits) -> None:
        self._table, self._clock_ms, self._limits = table, clock_ms, limits
        self._secret: bytes | None = None

    def admit(self, username: str, address: str) -> Attempt:
        place = network_of(address).encode()
        name = normal_name(username).encode("utf-8", "surrogatepass")
        window, passed_ms = divmod(self._clock_ms(), self._limits.window_ms)
        self._secret = self._secret or self._shared_secret()
        round_ = str(window).encode()
        pair = bucket_of(self._secret, b"pair", round_, place, name)
        origin = bucket_of(self._secret, b"address", round_, place)
        expires_s = (window + 2) * self._limits.window_ms // 1000
        retry_after_s = -(-(self._limits.window_ms - passed_ms) // 1000)
        if not self._count(pair, self._limits.pair, expires_s):
            raise RateLimited("too many wrong passwords from this address", retry_after_s)
        if not self._count(origin, self._limits.address, expires_s):
            self._uncount(pair)
            raise RateLimited("too many wrong passwords from this address", retry_after_s)
        return Attempt(pair, origin)

    def succeeded(self, attempt: Attempt) -> None:
        self._table.delete(_attempt_key(attempt.pair))
        self._uncount(attempt.address)

    def withdraw(self, attempt: Attempt) -> None:
        self._uncount(attempt.pair)
        self._uncount(attempt.address)

    def _count(self, bucket: bytes, limit: int, expires_s: int) -> bool:
        values = {":one": {"N": "1"}, ":limit": {"N": str(limit)}, ":expires": {"N": str(expires_s)}}
        return self._table.update(
            _attempt_key(bucket),
            "ADD #n :one SET expires = :expires",
            "attribute_not_exists(#n) OR #n < :limit",
            values,
            {"#n": "attempts"},
        )

    def _uncount(self, bucket: bytes) -> None:
        values = {":minus": {"N": "-1"}, ":zero": {"N": "0"}}
        self._table.update(_attempt_key(bucket), "ADD #n :minus", "#n > :zero", values, {"#n": "attempts"})

    def _shared_secret(self) -> bytes:
        """Made by whichever process needs it first."""
        fresh = secrets.token_bytes(32)
        if self._table.put({"pk": {"S": _SECRET_ITEM}, "value": {"B": fresh}}):
            return fresh
        item = self._table.find(_SECRET_ITEM)
        if item is None:
            raise ServiceUnavailable("the secret of the login attempts has gone")
        return bytes(item["value"]["B"])


def _key_of(key_hash: bytes) -> str:
    return _KEY_PREFIX + key_hash.hex()


def _attempt_key(bucket: bytes) -> str:
    return _ATTEMPT_PREFIX + bucket.hex()


def _record_of(item: dict[str, Any]) -> KeyRecord:
    return KeyRecord(
        hash=bytes.fromhex(item["pk"]["S"].removeprefix(_KEY_PREFIX)),
        user=UserId(item["user"]["S"]),
        client=item["client"]["S"],
        created_ms=int(item["created_ms"]["N"]),
        used_ms=int(item["used_ms"]["N"]),
        checked_ms=int(item["checked_ms"]["N"]),
        sealed=bytes(item["sealed"]["B"]),
    )
