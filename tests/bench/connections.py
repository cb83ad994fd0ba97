"""Open connections: what some active ones feel while thousands wait, with ours and with the official server.

python -m tests.bench.connections [open=10000] [active=100] [seconds=10]
Needs twice as many descriptors as connections (`ulimit -n`).
"""

from __future__ import annotations

import http.client
import json
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import zstandard

from tests.support import servers
from tests.support.wire import Wire, sync_header

BODY = zstandard.compress(json.dumps({"v": 11, "cv": "bench"}).encode())


class Client:
    """A connection, and the one question that it asks."""

    def __init__(self, port: int, hkey: str) -> None:
        self._headers = {"anki-sync": sync_header(hkey, "x")}
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._connection.connect()

    def ask(self) -> bool:
        self._connection.auto_open = 0  # a connection that was closed is an error
        self._connection.request("POST", "/sync/meta", BODY, self._headers)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status == 200

    def close(self) -> None:
        self._connection.close()


def serves(client: Client) -> bool:
    try:
        return client.ask()
    except (OSError, http.client.HTTPException):
        return False


def rss_mib(server: servers.Server) -> int:
    process = psutil.Process(server.process.pid)
    return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)]) >> 20


def open_waiting(port: int, hkey: str, count: int) -> list[Client]:
    """Half of them have been used, the others are silent."""
    found = []
    for number in range(count):
        found.append(Client(port, hkey))
        if number % 2:
            assert found[-1].ask()
    return found


def load(port: int, hkey: str, active: int, seconds: float) -> tuple[list[float], int]:
    """The times of all requests, and the number of those that failed."""
    times: list[float] = []
    failed: list[int] = []
    end_s = time.monotonic() + seconds

    def work() -> None:
        client = Client(port, hkey)
        while time.monotonic() < end_s:
            started_s = time.perf_counter()
            if not serves(client):
                failed.append(1)
                return
            times.append(time.perf_counter() - started_s)
            time.sleep(0.1)
        client.close()

    threads = [threading.Thread(target=work) for _ in range(active)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(times), len(failed)


def measure(kind: str, waiting: int, active: int, seconds: float) -> None:
    extra = {"ANKISYNCD_WORKERS": "2", "ANKISYNCD_LOG_LEVEL": "warning"}
    with (
        tempfile.TemporaryDirectory() as folder,
        servers.serving(kind, Path(folder, "data"), 1, extra) as server,
    ):
        hkey = Wire(server.port).login(server.users[0].name, server.users[0].password)
        before_mib, started_s = rss_mib(server), time.perf_counter()
        clients = open_waiting(server.port, hkey, waiting)
        opened_s, after_mib = time.perf_counter() - started_s, rss_mib(server)
        times, failed = load(server.port, hkey, active, seconds)
        healthy = server.healthy()
        sample = clients[1 :: max(2, waiting // 500 // 2 * 2)]
        p50_ms, p99_ms = (times[int(len(times) * share)] * 1000 for share in (0.5, 0.99))
        print(
            f"{kind}: {waiting} opened in {opened_s:.1f} s, memory {before_mib} -> {after_mib} MiB;",
            f"{active} active: {len(times) / seconds:.0f} requests/s, p50 {p50_ms:.1f} ms,",
            f"p99 {p99_ms:.1f} ms, {failed} failed; health {healthy};",
            f"{sum(map(serves, sample))} of {len(sample)} used ones still serve",
            flush=True,
        )
        for client in clients:
            client.close()


if __name__ == "__main__":
    words = [int(word) for word in sys.argv[1:]]
    waiting, active, seconds = [*words, *[10_000, 100, 10][len(words) :]]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for kind in (servers.OURS, servers.OFFICIAL):
        measure(kind, waiting, active, seconds)
