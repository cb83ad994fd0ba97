"""What calls to AWS cost: counted on the wire, priced as AWS prices them."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.support.cluster import AwsWire, operation_of
from tests.support.proxy import Exchange

DOLLARS_PER_MILLION = {"reads": 0.125, "writes": 0.625, "puts": 5.0, "gets": 0.4}
"""us-east-1, on demand: DynamoDB read units (4 KB, consistent) and write units (1 KB), S3 requests."""
READS = {"GetItem", "BatchGetItem", "Query"}
WRITES = {"UpdateItem", "PutItem", "DeleteItem"}
SILENCE_S = 0.5


@dataclass
class Bill:
    """All calls since the wire was cleared."""

    calls: Counter[str] = field(default_factory=Counter)
    read_units: int = 0
    write_units: int = 0
    bytes_to_s3: int = 0
    bytes_from_s3: int = 0

    @property
    def reads(self) -> int:
        return sum(self.calls[name] for name in READS)

    @property
    def writes(self) -> int:
        return sum(self.calls[name] for name in WRITES)

    @property
    def puts(self) -> int:
        return self.calls["PUT"] + self.calls["POST"]

    @property
    def gets(self) -> int:
        return self.calls["GET"] + self.calls["HEAD"]

    @property
    def dollars_per_million(self) -> float:
        price = DOLLARS_PER_MILLION
        return (
            self.read_units * price["reads"]
            + self.write_units * price["writes"]
            + self.puts * price["puts"]
            + self.gets * price["gets"]
        )


class Accountant:
    """Sits on a wire; needs a client of its own, past the wire, to see how large items are."""

    def __init__(self, wire: AwsWire, dynamodb) -> None:
        self.wire, self.dynamodb = wire, dynamodb
        self.bill = Bill()
        self.sizes: dict[str, int] = {}
        self._wait_for_silence()
        wire.is_doomed = self.note

    def start(self) -> None:
        self._wait_for_silence()
        self.wire.clear()
        self.bill = Bill()

    def _wait_for_silence(self) -> None:
        """What a server looks at once, when it starts, is of no sync."""
        known = -1
        while known != (known := len(self.wire.exchanges)):
            time.sleep(SILENCE_S)

    def note(self, exchange: Exchange) -> bool:
        """Called before the answer is passed on, so nothing is counted late."""
        name = operation_of(exchange)
        self.bill.calls[name] += 1
        if name in READS | WRITES:
            request = json.loads(exchange.body)
            if name in WRITES:
                key = request.get("Key") or {"pk": request["Item"]["pk"]}
                self.bill.write_units += self.write_units(request["TableName"], key)
            else:
                tables = request.get("RequestItems", {}).values()
                keys = [(t, k) for t, named in request.get("RequestItems", {}).items() for k in named["Keys"]]
                keys = keys if tables else [(request["TableName"], request["Key"])]
                if keys[0][1]["pk"]["S"].startswith(".store#"):
                    # A worker looks for the operator's orders every few seconds, also if nobody syncs.
                    self.bill.calls[name] -= 1
                    self.wire.exchanges.remove(exchange)
                    return False
                if keys[0][1]["pk"]["S"].startswith("hostkey#"):
                    self.bill.calls[name] -= 1
                    self.bill.calls["key"] += 1
                    return False
                self.bill.read_units += sum(units(self.size(table, key), 4096) for table, key in keys)
        else:
            self.bill.bytes_to_s3 += len(exchange.body)
        return False

    def close(self, *, has_key: bool) -> Bill:
        """The bill, with what came from S3 by now."""
        objects = [e for e in self.wire.exchanges if operation_of(e) == "GET"]
        bill, self.bill = self.bill, Bill()
        if has_key:
            # Whether a worker still remembers the key is a matter of seconds: count it once, always.
            bill.calls["GetItem"] += 1
            bill.read_units += 1
        bill.bytes_from_s3 = sum(len(exchange.answer) for exchange in objects)
        return bill

    def size(self, table: str, key: dict) -> int:
        item = self.dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item", {})
        return sum(len(name) + size_of(value) for name, value in item.items())

    def write_units(self, table: str, key: dict) -> int:
        """Of the larger one of the item before and after."""
        name = key["pk"]["S"]
        after = self.size(table, key)
        before, self.sizes[name] = self.sizes.get(name, 0), after
        return units(max(before, after), 1024)


def units(size: int, unit: int) -> int:
    return max(1, -(-size // unit))


def size_of(value: dict) -> int:
    """As DynamoDB counts it: numbers by their digits, and a little for each list."""
    ((kind, held),) = value.items()
    if kind == "N":
        return (len(held) + 1) // 2 + 1
    if kind == "L":
        return 3 + sum(1 + size_of(one) for one in held)
    if kind == "BS":
        return sum(map(len, held))
    if kind == "BOOL":
        return 1
    return len(held)
