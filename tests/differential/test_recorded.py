"""What real clients say to the official server, said again to the one examined."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.conftest import OLDER
from tests.conformance.device import NEWEST, Device, Pool, converge
from tests.differential.compare import first_difference, portrait
from tests.differential.walking import Side
from tests.support.proxy import Exchange, Proxy
from tests.support.servers import Server, User
from tests.support.wire import Answer, Wire

OLD_TABLES = ("notes", "cards", "revlog", "graves")
VERSIONS = [NEWEST, *(pytest.param(version, marks=pytest.mark.clients) for version in OLDER)]


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    pool = Pool(tmp_path_factory.mktemp("clients"))
    yield pool
    pool.end()


def live(a: Device, b: Device) -> None:
    """A few days of two devices."""
    for device in (a, b):
        device.modern_scheduler()
    a.add_notes([[f"word {i}", "meaning"] for i in range(40)], deck="Lang::Ü", tags=["t1", "T2::x"])
    a.review(5)
    a.first_upload()
    b.first_download()
    b.add_notetype("Own", ["F1", "F2", "F3"], templates=2)
    b.add_notes([["1", "2", "3"]], notetype="Own")
    converge(a, b)
    options = a.add_options("Fast", 30)
    a.use_options(a.add_deck("Lang::Ü"), options)
    a.review(10)
    b.review(3, later=4)
    cram = b.add_filtered_deck("Cram", "is:new")
    converge(b, a)
    b.empty_filtered_deck(cram)
    b.remove_deck(cram)
    b.set_config("x-config", {"a": [1, 2.5, None]})
    a.remove_notes([a.rows("select id from notes order by id")[0][0]])
    a.bulk_revlog(300, 1_500_000_000_000, 1)
    converge(a, b)
    for name in ("one.jpg", "zwei ü.mp3", "three.txt"):
        a.write_media(name, 3000, "v1")
    b.write_many("many", 60, 100)
    for device in (a, b, a):
        device.sync_media()
    b.remove_media("one.jpg")
    a.write_media("three.txt", 200, "v2")
    a.touch_file("three.txt")
    for device in (b, a, b):
        device.sync_media()
    a.add_field("Basic", "Third")
    a.first_upload()
    b.first_download()
    converge(b, a)


def record(server: Server, user: User, version: str, pool: Pool, folder: Path) -> list[Exchange]:
    devices: list[Device] = []
    with Proxy([server.port]) as proxy:
        try:
            for name in ("a", "b"):
                devices.append(Device(pool, version, folder / name))
                devices[-1].log_in(proxy.url, user)
            live(*devices)
        finally:
            for device in devices:
                device.end()
        return proxy.exchanges


def decoded(exchange: Exchange) -> Answer:
    """The answer as `Wire` would have read it."""
    body = bytes(exchange.answer)
    if "anki-original-size" in exchange.answer_headers:
        body = Wire.unpack(body)
    return Answer(exchange.status, exchange.answer_headers, body)


def repeat(exchange: Exchange, wire: Wire, old_key: str) -> Answer:
    headers = {k: v for k, v in exchange.headers.items() if k in {"anki-sync", "content-type"}}
    if "anki-sync" in headers:
        headers["anki-sync"] = headers["anki-sync"].replace(old_key, wire.hkey)
    body = bytes(exchange.body).replace(old_key.encode(), wire.hkey.encode())
    path = exchange.path.replace(old_key, wire.hkey).lstrip("/")
    return wire.send(path, headers, body or None, verb=exchange.line.split()[0])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_recorded_life_meets_the_same_answers(
    version: str, official: Server, examined: Server, pool: Pool, tmp_path: Path
) -> None:
    user = official.next_user()
    exchanges = record(official, user, version, pool, tmp_path)
    assert len(exchanges) > 80
    old_key = json.loads(decoded(exchanges[0]).body)["key"]
    kept, side = Side(Wire(official.port, old_key)), Side.of_new_user(examined)
    with kept.runner.wire, side.runner.wire:
        for exchange in exchanges:
            difference = compare(exchange, kept, side, old_key)
            assert not difference, f"{exchange.number}. {exchange.method}: {difference}"
        first, second = kept.state(), side.state()
        if any("anki-sync" not in exchange.headers for exchange in exchanges):
            # the official server keeps the old schema in which it hands out a collection to an old
            # client, and so loses stamps and new options of what that has no room for
            for state in (first, second):
                state["collection"] = {table: state["collection"][table] for table in OLD_TABLES}
        assert first == second, first_difference(first, second)


def compare(exchange: Exchange, kept: Side, side: Side, old_key: str) -> str:
    method, theirs = exchange.method, decoded(exchange)
    ours = repeat(exchange, side.runner.wire, old_key)
    if method != "chunk":
        expected, found = portrait(method, theirs, kept.clock), portrait(method, ours, side.clock)
        return "" if expected == found else first_difference(expected, found)
    # the same rows may come in other chunks; who asks on after the last one gets that again
    if side.all_sent is None and side.collect(ours):
        side.all_sent = list(side.sent)
    if not kept.collect(theirs):
        return ""
    first, second = (sorted(one.sent) for one in (kept, side))
    kept.sent.clear()
    side.sent.clear()
    side.all_sent = None
    return "" if first == second else first_difference(first, second)
