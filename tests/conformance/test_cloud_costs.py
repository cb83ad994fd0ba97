"""Calls to AWS, bytes and money of each kind of sync, counted on the wire between server and engine.

`WRITE_COSTS=1` writes the table to `storage/COSTS.md`; without it, a figure that grows fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.conftest import Make
from tests.conformance.device import NEWEST, Device
from tests.support import aws, servers
from tests.support.aws_costs import Accountant, Bill
from tests.support.cluster import Cluster, cloud

pytestmark = pytest.mark.one_server

TABLE = Path(__file__).parents[2] / "storage" / "COSTS.md"
NOTES = 8000
MEDIA_FILES = 50
HEADER = (
    "| what | DynamoDB reads | writes | write units | S3 PUT | S3 GET "
    "| KB to S3 | KB from S3 | $ per million |"
)
SPARE = 1.15
"""Sizes vary with times and random ids, so bytes and money may exceed the table by this much."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("costs")
    users = servers.make_users(3)
    with aws.moto() as engine, cloud(folder, engine) as place, Cluster(folder, users, place, size=1) as found:
        yield found


@pytest.fixture
def accountant(server: Cluster) -> Accountant:
    return Accountant(server.place.wire, aws.dynamodb_client(server.place.engine))


class Measured:
    """The bills, by what was done."""

    def __init__(self, accountant: Accountant) -> None:
        self.accountant = accountant
        self.bills: dict[str, Bill] = {}

    def __call__(self, what: str, action: Callable[[], object], *, has_key: bool = True) -> Bill:
        self.accountant.start()
        action()
        bill = self.bills[what] = self.accountant.close(has_key=has_key)
        return bill

    def rows(self) -> dict[str, list[float]]:
        return {what: row_of(bill) for what, bill in self.bills.items()}


def row_of(bill: Bill) -> list[float]:
    return [
        bill.reads,
        bill.writes,
        bill.write_units,
        bill.puts,
        bill.gets,
        -(-bill.bytes_to_s3 // 1000),
        -(-bill.bytes_from_s3 // 1000),
        round(bill.dollars_per_million, 2),
    ]


def review_many(device: Device, count: int) -> None:
    assert len(device.review(count)) == count


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_costs_of_syncs_do_not_grow(server: Cluster, accountant: Accountant, make_device: Make) -> None:
    measured = Measured(accountant)
    user = server.next_user()
    a = make_device(user, NEWEST)
    a.modern_scheduler()
    a.bulk_notes(NOTES, 1_600_000_000_000, "word")
    a.set_options(1, 9999)
    assert a.sync() in {"full", "upload"}
    measured(f"full upload, {NOTES} notes", a.upload)
    b = make_device(user, NEWEST)
    measured("login", lambda: make_device(user, NEWEST), has_key=False)
    assert b.sync() in {"full", "download"}
    measured(f"full download, {NOTES} notes, warm", b.download)
    a.settle()

    server.replace(0)
    for device in (a, b):
        device.endpoint(server.url)
    idle = measured("nothing to do", a.settle)
    assert accountant.wire.exchanges[0].headers["x-amz-target"].endswith("GetItem")
    assert len(accountant.wire.exchanges) == 2, "the key, and both heads at once"
    assert (idle.reads, idle.writes, idle.puts, idle.gets) == (2, 0, 0, 0)

    review_many(a, 100)
    cold_first = measured("100 reviews, cold, the chain is a snapshot and a delta", a.settle)
    assert cold_first.gets == 2
    review_many(a, 100)
    warm = measured("100 reviews, warm", a.settle)
    assert (warm.puts, warm.gets) == (1, 0)
    assert warm.writes <= 10
    assert warm.bytes_to_s3 <= 1_000_000
    measured("receiving 200 reviews, warm", b.settle)

    for _ in range(4):
        review_many(a, 5)
        a.settle()
    server.replace(0)
    review_many(a, 5)
    server.place.wire.delay_s = lambda exchange: 0.1 if exchange.line.startswith("GET ") else 0
    cold = measured("5 reviews, cold, the chain is a snapshot and 8 deltas", a.settle)
    server.place.wire.delay_s = lambda _exchange: 0
    assert cold.gets == 9
    assert server.place.wire.most_flying >= 6, "the deltas did not come side by side"

    a.write_many("file", MEDIA_FILES, 20_000)
    measured(f"upload of {MEDIA_FILES} media files of 20 KB", a.sync_media)
    measured(f"download of {MEDIA_FILES} media files of 20 KB", b.sync_media)
    judge(measured.rows())


def judge(rows: dict[str, list[float]]) -> None:
    if os.environ.get("WRITE_COSTS"):
        lines = [HEADER, "| --- " + "| ---: " * 8 + "|"]
        lines += [f"| {what} | " + " | ".join(map(format_figure, row)) + " |" for what, row in rows.items()]
        before = TABLE.read_text().partition("| what |")[0]
        TABLE.write_text(before + "\n".join(lines) + "\n")
    expected = read_table()
    assert list(rows) == list(expected)
    for what, row in rows.items():
        for name, found, most in zip(HEADER.split(" | ")[1:], row, expected[what], strict=True):
            spare = 1 if "units" not in name and "KB" not in name and "$" not in name else SPARE
            allowed = most * spare + (spare > 1)
            assert found <= allowed, f"{what}: {name} grew from {most} to {found}"


def format_figure(figure: float) -> str:
    return f"{figure:.2f}" if isinstance(figure, float) else str(figure)


def read_table() -> dict[str, list[float]]:
    lines = TABLE.read_text().partition("| what |")[2].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line]
    return {what: [float(figure) for figure in figures] for what, *figures in cells}
