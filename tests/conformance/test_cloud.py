"""Real clients and three servers that share a bucket and a table, and nothing else.

The whole suite runs so with `pytest tests/conformance --server=cloud`; here is what takes a look at the
servers, or at their calls to AWS. Their deaths are in `test_cloud_deaths.py`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from tests.conformance.conftest import Make
from tests.conformance.device import NEWEST, ClientError, Device, assert_same, converge
from tests.conformance.test_interrupted import change_both, words
from tests.support import aws, servers
from tests.support.cluster import Cluster, cloud, operation_of
from tests.support.proxy import Exchange, Fault

pytestmark = [pytest.mark.one_server, pytest.mark.parametrize("versions", [(NEWEST, NEWEST)], ids=["newest"])]


NEWER_REVISION = (
    sys.executable,
    "-c",
    "import app.sync.journal as j; j.MERGE_REVISION += 1; from app.cli.server import main; main()",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with (
        aws.moto() as engine,
        cloud(folder, engine) as place,
        Cluster(folder, servers.make_users(10), place) as cluster,
    ):
        yield cluster


@pytest.fixture(autouse=True)
def nothing_planned(server: Cluster) -> Iterator[None]:
    yield
    server.proxy.fate = lambda _exchange: Fault.NONE
    server.place.wire.on_call = lambda _exchange: Fault.NONE


def test_the_requests_of_one_sync_are_answered_by_all_servers(
    pair: tuple[Device, Device], server: Cluster
) -> None:
    a, b = pair
    change_both(a, b, "spread")
    a.write_media("shared.bin", 3000, "spread")
    a.sync_media()
    b.settle()
    converge(a, b)
    b.sync_media()
    assert_same(a, b)
    assert a.media() == b.media()
    assert words(b, "spread") == 6
    assert all("method=applyChunk" in member.log for member in server.members)


@pytest.mark.thorough
def test_nobody_waits_while_the_upload_of_another_user_is_stored(
    pair: tuple[Device, Device], server: Cluster, make_device: Make
) -> None:
    other = make_device(server.next_user())
    other.add_notes([["of another", "user"]])
    assert other.sync() in {"full", "upload"}
    reached, resume = threading.Event(), threading.Event()

    def hold_first_object(call: Exchange) -> Fault:
        if operation_of(call) == "PUT" and not reached.is_set():
            reached.set()
            resume.wait(60)
        return Fault.NONE

    server.place.wire.on_call = hold_first_object
    other.begin("upload")
    try:
        assert reached.wait(60)
        a, b = pair
        change_both(a, b, "meanwhile")
        converge(a, b)
        assert words(b, "meanwhile") == 6
    finally:
        resume.set()
    other.driver.receive()
    other.settle()


@pytest.mark.thorough
def test_servers_of_different_merge_revisions_do_not_carry_on_each_others_syncs(
    pair: tuple[Device, Device], server: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    change_both(a, b, "revision")
    b.settle()
    route = server.proxy.route
    with monkeypatch.context() as patch:
        patch.setitem(servers.COMMANDS, servers.OURS, NEWER_REVISION)
        server.replace(0)
    try:
        server.proxy.route = lambda exchange: 0 if exchange.method == "applyChunk" else 1
        with pytest.raises(ClientError, match="Only one copy"):
            a.sync()
        server.proxy.route = lambda _exchange: 0
        a.settle()
    finally:
        server.proxy.route = route
        server.replace(0)
    converge(b, a)
    assert_same(a, b)
    assert words(b, "revision") == 6
