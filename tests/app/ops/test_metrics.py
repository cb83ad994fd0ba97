"""Every metric moves by what it counts: real requests to a real server with two workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from app.ops.catalogue import BY_NAME, MAINTAINED, VERIFIED
from app.version import VERSION
from storage.database.maintenance.runs import Checked, CheckLog
from storage.objects.local import LocalObjectStore
from storage.types import run_inline
from tests.app.ops.scrape import Samples, get, moved, scrape
from tests.support import servers
from tests.support.waiting import wait_until
from tests.support.wire import Wire

COUNTS = {"client": [[0, 0, 0], 0, 0, 0, 0, 6, 1, 1]}
NOTHING = {"changes": {"models": [], "decks": [[], []], "tags": []}}


@dataclass
class Watched:
    server: servers.Server
    port: int

    def samples(self) -> Samples:
        return scrape(self.port)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched") / "data"
    port = servers.free_port()
    extra = {"ANKISYNCD_METRICS_PORT": str(port), "ANKISYNCD_WORKERS": "2", "MAX_SYNC_PAYLOAD_MEGS": "1"}
    users = servers.make_users(20)
    with servers.serving(servers.OURS, folder, users, extra | servers.hashed(users)) as server:
        yield Watched(server, port)


@pytest.fixture
def wire(watched: Watched) -> Iterator[Wire]:
    """A device of a user that no other test has."""
    user = watched.server.next_user()
    with Wire(watched.server.port, skey=f"session-of-{user.name}") as opened:
        opened.login(user.name, user.password)
        yield opened


def start(wire: Wire) -> None:
    assert wire.call("meta", {"v": 11, "cv": "tests"}).ok
    assert wire.call("start", {"minUsn": 0, "lnewer": False, "graves": None}).ok


def bring_all(wire: Wire) -> None:
    assert wire.call("applyChanges", NOTHING).ok
    while not wire.call("chunk", {}).json["done"]:
        pass


def test_a_whole_sync_is_followed_from_its_begin_to_its_end(watched: Watched, wire: Wire) -> None:
    before = watched.samples()
    start(wire)
    # A request is counted after its answer was sent.
    wait_until(lambda: watched.samples()["ankisyncd_running_syncs",] == 1)
    during = watched.samples()
    assert moved(before, during)["ankisyncd_syncs_begun_total", "kind=collection"] == 1
    bring_all(wire)
    assert wire.call("sanityCheck2", COUNTS).json["status"] == "ok"
    assert wire.call("finish", {}).ok
    wire.call("meta", {"v": 11, "cv": "tests"})  # after the line of finish
    after = watched.samples()
    found = moved(before, after)
    assert after["ankisyncd_running_syncs",] == 0
    assert found["ankisyncd_syncs_total", "kind=collection", "outcome=done", "reason="] == 1
    assert found["ankisyncd_sync_seconds_count",] == 1
    for method in ("start", "applyChanges", "chunk", "sanityCheck2", "finish"):
        assert found["ankisyncd_requests_total", f"method={method}", "status=200"] == 1
        assert found["ankisyncd_request_seconds_count", f"method={method}"] == 1
    assert found["ankisyncd_received_bytes_total",] > 100
    assert found["ankisyncd_sent_bytes_total",] > 1000
    assert found["ankisyncd_checkouts_total", "source=base"] >= 1
    assert found["ankisyncd_checkouts_total", "source=copy"] >= 1
    for operation in ("open_session", "append", "advance_head"):
        assert found["ankisyncd_store_seconds_count", f"operation={operation}", "store=heads"] >= 1
    assert any(key[0] == "ankisyncd_store_seconds_count" and key[2] == "store=objects" for key in found)


def test_a_failed_sanity_check_is_an_outcome_and_a_reason_in_the_log(watched: Watched, wire: Wire) -> None:
    start(wire)
    bring_all(wire)
    before = watched.samples()
    answer = wire.call("sanityCheck2", {"client": [[0, 0, 0], 7, 0, 0, 0, 6, 1, 1]})
    assert answer.json["status"] == "bad"
    wire.call("meta", {"v": 11, "cv": "tests"})
    found = moved(before, watched.samples())
    ended = ("ankisyncd_syncs_total", "kind=collection", "outcome=sanity", "reason=SanityCheckFailed")
    assert found[ended] == 1
    assert found["ankisyncd_running_syncs",] == -1
    (line,) = [line for line in watched.server.log.splitlines() if "method=sanityCheck2 status=200" in line
               and "reason=" in line]  # fmt: skip
    assert "sanity check failed: " in line and "warning" in line


@pytest.mark.parametrize(
    ("method", "payload", "outcome", "reason"),
    [
        ("finish", {}, "conflict", "SessionConflict"),
        ("applyChunk", b"no json", "refused", "ProtocolError"),
        ("meta", {"v": 99, "cv": "tests"}, "refused", "UnsupportedVersion"),
        ("meta", {"v": 8, "cv": "tests"}, "refused", "ClientTooOld"),
    ],
)
def test_a_refused_sync_says_why(
    watched: Watched, wire: Wire, method: str, payload: object, outcome: str, reason: str
) -> None:
    before = watched.samples()
    wire.call(method, payload)
    wire.call("abort", {})
    wire.call("meta", {"v": 11, "cv": "tests"})  # after abort was counted
    found = moved(before, watched.samples())
    ended = ("ankisyncd_syncs_total", "kind=collection", f"outcome={outcome}", f"reason={reason}")
    assert found[ended] == 1
    assert found["ankisyncd_syncs_total", "kind=collection", "outcome=aborted", "reason="] == 1


def test_one_way_syncs_and_refused_uploads_have_kinds_of_their_own(watched: Watched, wire: Wire) -> None:
    before = watched.samples()
    collection = wire.download()
    assert wire.upload(collection).body == b"OK"
    assert b"corrupt" in wire.upload(b"no collection").body
    wire.upload(os.urandom(3 << 20))
    wire.call("meta", {"v": 11, "cv": "tests"})
    found = moved(before, watched.samples())
    assert found["ankisyncd_syncs_total", "kind=download", "outcome=done", "reason="] == 1
    assert found["ankisyncd_syncs_total", "kind=upload", "outcome=done", "reason="] == 1
    assert found["ankisyncd_syncs_total", "kind=upload", "outcome=refused", "reason=InvalidDatabase"] == 1
    assert found["ankisyncd_syncs_total", "kind=upload", "outcome=refused", "reason=TooLarge"] == 1


def test_media_syncs_are_counted(watched: Watched, wire: Wire) -> None:
    before = watched.samples()
    assert wire.call("begin", {"v": "tests"}).ok
    assert wire.call("mediaSanity", {"local": 0}).json["data"] == "OK"
    wire.call("downloadFiles", {"files": ["missing.png"]})
    wire.call("meta", {"v": 11, "cv": "tests"})
    found = moved(before, watched.samples())
    assert found["ankisyncd_syncs_begun_total", "kind=media"] == 1
    assert found["ankisyncd_syncs_total", "kind=media", "outcome=done", "reason="] == 1
    assert found["ankisyncd_syncs_total", "kind=media", "outcome=conflict", "reason=FileMissing"] == 1


def test_logins_are_counted_by_outcome(watched: Watched, wire: Wire) -> None:
    before = watched.samples()
    user = watched.server.next_user()
    wire.login(user.name, user.password)
    statuses = {wire.call("hostKey", {"u": "nobody", "p": "wrong"}).status for _ in range(30)}
    assert statuses == {403, 429}
    wire.call("meta", {"v": 11, "cv": "tests"})
    found = moved(before, watched.samples())
    counted = {outcome: found["ankisyncd_logins_total", f"outcome={outcome}"] for outcome in
               ("ok", "wrong", "limited")}  # fmt: skip
    assert counted["ok"] == 1 and counted["wrong"] > 0 and counted["limited"] > 0
    assert sum(counted.values()) == 31


def test_what_clients_make_up_makes_no_series(watched: Watched) -> None:
    before = watched.samples()
    for number in range(5):
        assert get(watched.server.port, f"/made-up-{number}")[0] == 404
    wait_until(lambda: ("ankisyncd_requests_total", "method=other", "status=404") in watched.samples())
    new = {key for key in watched.samples() if key not in before and key[0] == "ankisyncd_requests_total"}
    assert new <= {("ankisyncd_requests_total", "method=other", "status=404"),
                   ("ankisyncd_requests_total", "method=metrics", "status=200")}  # fmt: skip


def test_metrics_are_on_their_own_port_alone_and_nothing_else_is(watched: Watched) -> None:
    assert get(watched.server.port, "/metrics")[0] == 404
    assert get(watched.port, "/metrics")[0] == 200
    assert get(watched.port, "/health")[0] == 200
    assert get(watched.port, "/sync/meta", "POST")[0] == 404
    assert get(watched.port, "/")[0] == 404


def test_only_metrics_of_the_list_are_exposed(watched: Watched) -> None:
    endings = ("_count", "_sum", "_bucket")
    for name, *_ in watched.samples():
        base = next((name.removesuffix(end) for end in endings if name.endswith(end)), name)
        assert base in BY_NAME or name in BY_NAME


def test_a_worker_that_dies_is_seen_and_what_it_counted_stays(watched: Watched) -> None:
    before = watched.samples()
    assert before["ankisyncd_workers",] == 2
    assert before["ankisyncd_build_info", f"version={VERSION}"] == 1
    workers = psutil.Process(watched.server.process.pid).children()
    os.kill(workers[0].pid, signal.SIGKILL)
    wait_until(lambda: watched.samples()["ankisyncd_worker_starts_total",] == 3)
    wait_until(lambda: watched.samples()["ankisyncd_workers",] == 2)
    after = watched.samples()
    # What moves is asked for, and nothing has gone back.
    for key, value in before.items():
        if key[0].endswith(("_total", "_count")):
            assert after[key] >= value, key


def test_times_of_maintenance_and_of_a_verified_restore_are_those_of_the_store(tmp_path: Path) -> None:
    folder, port = tmp_path / "data", servers.free_port()
    extra = {"ANKISYNCD_METRICS_PORT": str(port), "ANKISYNCD_WORKERS": "1"}
    with servers.serving(servers.OURS, folder, 1, extra):
        wait_until(lambda: ("ankisyncd_cache_bytes", "cache=bases") in scrape(port))
        never = scrape(port)
    assert (MAINTAINED,) not in never and (VERIFIED,) not in never
    env = servers.environment([], folder, 1, {})
    started_s = time.time()
    subprocess.run(
        [sys.executable, "-m", "app.cli", "maintain"], env=env, cwd=servers.REPOSITORY, check=True, timeout=60
    )
    checks = CheckLog(LocalObjectStore(folder / "ankisyncd", run_inline), lambda: "nonce")
    checks.write(Checked(last_ms=1_600_000_000_000))
    checks.write(Checked(last_ms=1_700_000_000_000))
    with servers.serving(servers.OURS, folder, 1, extra):
        wait_until(lambda: (VERIFIED,) in scrape(port))
        found = scrape(port)
    assert found[VERIFIED,] == 1_700_000_000
    assert found["ankisyncd_worker_starts_total",] == 1  # what the server before has counted is gone
    assert started_s - 60 < found[MAINTAINED,] < time.time() + 60
