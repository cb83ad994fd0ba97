"""Syncs of very many rows, by real clients over three servers that answer in turn."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.conformance.conftest import Make
from tests.conformance.device import NEWEST, Device, assert_same
from tests.support import aws, servers
from tests.support.cluster import Cluster, cloud

pytestmark = [
    pytest.mark.slow,
    pytest.mark.one_server,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("versions", [(NEWEST, NEWEST)], ids=["newest"]),
]

FIRST = 1_400_000_000_000
SECOND = 1_500_000_000_000
PULLED_NOTES = 20_000
PUSHED_ROWS = 100_000
SILENCE_S = 30
"""A client gives up when it hears nothing for so long."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with (
        aws.moto() as engine,
        cloud(folder, engine) as place,
        Cluster(folder, servers.make_users(10), place) as cluster,
    ):
        yield cluster


class Pace:
    """How long the requests of one sync took, and which servers answered them."""

    def __init__(self, server: Cluster, what: str) -> None:
        self.server, self.what = server, what

    def __enter__(self) -> Pace:
        self.server.proxy.exchanges.clear()
        self.began = time.monotonic()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.seconds = time.monotonic() - self.began
        self.counts = Counter(exchange.method for exchange in self.server.proxy.exchanges)
        print(f"{self.what}: {self.seconds:.1f} s, {dict(self.counts)}")


def test_a_pull_of_many_rows_takes_chunks_from_all_servers(
    pair: tuple[Device, Device], server: Cluster
) -> None:
    a, b = pair
    a.bulk_notes(PULLED_NOTES, FIRST, "pulled")
    a.settle()
    with Pace(server, f"pull of {2 * PULLED_NOTES} rows") as pull:
        b.settle()
    assert pull.counts["chunk"] > 20
    assert_same(a, b)


def test_a_push_of_100_000_rows_is_taken_and_others_do_not_wait(
    pair: tuple[Device, Device], make_device: Make, server: Cluster
) -> None:
    a, b = pair
    other = make_device(server.next_user(), NEWEST)
    other.modern_scheduler()
    other.add_notes([["small", "1"]])
    other.first_upload()
    a.bulk_revlog(PUSHED_ROWS, FIRST, 1)
    waits, is_over = [], threading.Event()

    def sync_again_and_again() -> None:
        while not is_over.is_set():
            other.add_notes([[f"note {len(waits)}", ""]])
            began = time.monotonic()
            other.settle()
            waits.append(time.monotonic() - began)

    thread = threading.Thread(target=sync_again_and_again)
    with Pace(server, f"push of {PUSHED_ROWS} rows") as push:
        thread.start()
        try:
            a.settle()
        finally:
            is_over.set()
            thread.join()
    print(f"another user's {len(waits)} syncs meanwhile took up to {max(waits):.1f} s")
    assert push.counts["applyChunk"] > PUSHED_ROWS // 500
    assert max(waits) < SILENCE_S
    b.settle()
    assert_same(a, b)


def test_a_sync_that_pulls_many_rows_and_pushes_100_000(pair: tuple[Device, Device], server: Cluster) -> None:
    a, b = pair
    a.bulk_notes(PULLED_NOTES, FIRST, "pulled")
    a.settle()
    b.bulk_revlog(PUSHED_ROWS, SECOND, 1)
    with Pace(server, f"both in one sync, {2 * PULLED_NOTES} rows pulled and {PUSHED_ROWS} pushed"):
        b.settle()
    a.settle()
    assert_same(a, b)
