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
SPREAD_HEADER = "| calls a sync of 10 reviews | 1 server | 6 servers, each request anywhere |"
SPREAD = (1, 6)
WARMING, ROUNDS = 8, 6
"""Syncs before and while it is counted: fewer than those after which a chain is compacted."""
MOST_CALLS = {1: 8, 6: 11}
"""Of a sync of 10 reviews, without those that read a host key."""
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
    # The deltas of the last syncs hold the pages of those before them.
    assert cold.gets == 3
    assert server.place.wire.most_flying >= 2, "the deltas did not come side by side"

    a.write_many("file", MEDIA_FILES, 20_000)
    measured(f"upload of {MEDIA_FILES} media files of 20 KB", a.sync_media)
    measured(f"download of {MEDIA_FILES} media files of 20 KB", b.sync_media)
    judge(measured.rows())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_calls_of_a_sync_do_not_grow_with_the_number_of_servers(
    tmp_path_factory: pytest.TempPathFactory, make_device: Make
) -> None:
    """The servers take turns, so that no two requests in a row go to one of them."""
    found = {}
    for size in SPREAD:
        folder = tmp_path_factory.mktemp(f"spread{size}")
        users = servers.make_users(1)
        with (
            aws.moto() as engine,
            cloud(folder, engine) as place,
            Cluster(folder, users, place, size=size) as cluster,
        ):
            accountant = Accountant(place.wire, aws.dynamodb_client(engine))
            found[size] = calls_of_syncs(make_device(cluster.next_user(), NEWEST, cluster.url), accountant)
    rows = {name: [found[size][name] for size in SPREAD] for name in found[1]}
    for size, column in zip(SPREAD, zip(*rows.values(), strict=True), strict=True):
        assert sum(column[:-1]) <= MOST_CALLS[size], rows
    judge_spread(rows)


def calls_of_syncs(device: Device, accountant: Accountant) -> dict[str, float]:
    """Calls a sync of 10 reviews by a device that alone changes its collection; all servers are warm."""
    device.modern_scheduler()
    device.bulk_notes(NOTES, 1_600_000_000_000, "word")
    device.set_options(1, 9999)
    assert device.sync() in {"full", "upload"}
    device.upload()
    for _ in range(WARMING):
        review_many(device, 10)
        device.settle()
    accountant.start()
    for _ in range(ROUNDS):
        review_many(device, 10)
        device.settle()
    bill = accountant.bill
    counts = {
        "DynamoDB reads": bill.reads,
        "DynamoDB writes": bill.writes,
        "S3 PUT": bill.puts,
        "S3 GET": bill.gets,
        "beside them, reads of the host key": bill.calls["key"],
    }
    return {name: round(count / ROUNDS, 1) for name, count in counts.items()}


def judge_spread(rows: dict[str, list[float]]) -> None:
    if os.environ.get("WRITE_COSTS"):
        write_table(SPREAD_HEADER, rows, "{:.1f}")
    expected = read_table(SPREAD_HEADER)
    assert list(rows) == list(expected)
    for name, row in rows.items():
        # How often a key is read depends on the time that the syncs take.
        spare = 0.2 if "key" not in name else 7
        assert all(f <= e + spare for f, e in zip(row, expected[name], strict=True)), (name, row)


def judge(rows: dict[str, list[float]]) -> None:
    if os.environ.get("WRITE_COSTS"):
        write_table(HEADER, rows)
    expected = read_table(HEADER)
    assert list(rows) == list(expected)
    for what, row in rows.items():
        for name, found, most in zip(HEADER.split(" | ")[1:], row, expected[what], strict=True):
            spare = 1 if "units" not in name and "KB" not in name and "$" not in name else SPARE
            allowed = most * spare + (spare > 1)
            assert found <= allowed, f"{what}: {name} grew from {most} to {found}"


def write_table(header: str, rows: dict[str, list[float]], form: str = "") -> None:
    """Put a table in the place of the one with this header."""
    lines = [header, "| --- " + "| ---: " * (header.count("|") - 2) + "|"]
    for what, row in rows.items():
        figures = (form.format(figure) if form else format_figure(figure) for figure in row)
        lines.append(f"| {what} | " + " | ".join(figures) + " |")
    before, _, rest = TABLE.read_text().partition(header)
    behind = rest.partition("\n\n")[2]
    TABLE.write_text(before + "\n".join(lines) + "\n" + ("\n" + behind if behind else ""))


def format_figure(figure: float) -> str:
    return f"{figure:.2f}" if isinstance(figure, float) else str(figure)


def read_table(header: str) -> dict[str, list[float]]:
    lines = TABLE.read_text().partition(header)[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line]
    return {what: [float(figure) for figure in figures] for what, *figures in cells}
