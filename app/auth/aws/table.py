"""Reads and writes items of the DynamoDB table by one string key. Used by `dynamodb` and `keyrings`.

Errors of the SDK become `ServiceUnavailable`; a failed condition is a result, not an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from app.errors import ServiceUnavailable

Item = dict[str, Any]

_AT_ONCE = 100
"""Source: API_BatchGetItem of the Amazon DynamoDB API reference."""
_ATTEMPTS = 5
_LISTING_INDEX = "listing"
"""Source: `table_definition` in storage.heads.dynamodb, which shares the table."""


class DynamoTable:
    """One table with the string key `pk`, and the index `listing` over the string `listing` and `pk`.

    `client`: a boto3 client "dynamodb" with short timeouts.
    """

    def __init__(self, client: Any, table: str) -> None:
        self._client, self._table = client, table

    def find(self, key: str) -> Item | None:
        """The item, by a consistent read, or None."""
        answer = self._call("get_item", Key=_at(key), ConsistentRead=True)
        item: Item | None = answer.get("Item") if answer else None
        return item

    def find_many(self, keys: Iterable[str]) -> dict[str, Item]:
        """Key -> item, for the existing ones, by consistent reads."""
        found: dict[str, Item] = {}
        rest = iter(dict.fromkeys(keys))
        while batch := list(itertools.islice(rest, _AT_ONCE)):
            wanted = [_at(key) for key in batch]
            for _ in range(_ATTEMPTS):
                wanted = self._read_some(wanted, found)
                if not wanted:
                    break
            else:
                raise ServiceUnavailable("DynamoDB: throttled")
        return found

    def _read_some(self, wanted: list[Item], found: dict[str, Item]) -> list[Item]:
        """Make one request, and add its items to `found`; returns the keys that were not processed."""
        request = {self._table: {"Keys": wanted, "ConsistentRead": True}}
        answer = self._call("batch_get_item", RequestItems=request) or {}
        for item in answer["Responses"].get(self._table, ()):
            found[item["pk"]["S"]] = item
        left: list[Item] = answer.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", [])
        return left

    def list_keys(self, listing: str) -> Iterator[str]:
        """The keys of all items with this value of `listing`; the index is eventually consistent."""
        start: dict[str, Any] = {}
        while True:
            answer = self._call(
                "query",
                IndexName=_LISTING_INDEX,
                KeyConditionExpression="listing = :listing",
                ExpressionAttributeValues={":listing": {"S": listing}},
                **start,
            )
            for item in answer["Items"] if answer else ():
                yield item["pk"]["S"]
            if not answer or "LastEvaluatedKey" not in answer:
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    def put(self, item: Item) -> bool:
        """Create an item; False if one with its key exists."""
        condition = "attribute_not_exists(pk)"
        answer = self._call("put_item", Item=item, ConditionExpression=condition)
        return answer is not None

    def delete(
        self, key: str, condition: str = "attribute_exists(#pk)", names: dict[str, str] | None = None
    ) -> Item | None:
        """Delete an item and return it; None if the condition failed."""
        answer = self._call(
            "delete_item",
            Key=_at(key),
            ConditionExpression=condition,
            ExpressionAttributeNames=names or {"#pk": "pk"},
            ReturnValues="ALL_OLD",
        )
        item: Item | None = answer.get("Attributes") if answer else None
        return item

    def update(
        self,
        key: str,
        change: str,
        values: dict[str, Any],
        *,
        condition: str | None = None,
        names: dict[str, str] | None = None,
    ) -> Item | None:
        """Update or create an item and return it; None if the condition failed."""
        optional = {"ConditionExpression": condition, "ExpressionAttributeNames": names}
        answer = self._call(
            "update_item",
            Key=_at(key),
            UpdateExpression=change,
            ExpressionAttributeValues=values,
            ReturnValues="ALL_NEW",
            **{name: value for name, value in optional.items() if value},
        )
        item: Item | None = answer["Attributes"] if answer else None
        return item

    def _call(self, operation: str, **parameters: Any) -> dict[str, Any] | None:
        """The answer; None if the condition failed."""
        if operation != "batch_get_item":
            parameters["TableName"] = self._table
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(**parameters)
        except ClientError as exc:
            code = exc.response["Error"]["Code"]
            if code == "ConditionalCheckFailedException":
                return None
            raise ServiceUnavailable(f"DynamoDB: {code}") from exc
        except BotoCoreError as exc:
            raise ServiceUnavailable(f"DynamoDB does not answer: {type(exc).__name__}") from exc
        return answer


def _at(key: str) -> Item:
    return {"pk": {"S": key}}
