"""Prints what a sync costs when a proxy gives each of its requests to any worker, and to any server.

python -m tests.bench.spread [--workers 1,2,4,8] [--servers 1,6] [--seconds 10] [--cache .cache/bench]

First the official server and this one with more and more worker processes on one host behind nginx, which
keeps connections open to them; then servers with a disk each on an emulated AWS. On two cores a figure for
many workers says how the work grows, and not how much goes through.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.ankibench import datasets, load
from tests.bench.ankibench.datasets import Dataset
from tests.bench.ankibench.goals import Check, checked
from tests.bench.ankibench.metering import Meter, Tree
from tests.bench.ankibench.protocol import Connection, Device
from tests.bench.ankibench.targets import Target
from tests.support import aws, servers
from tests.support.cluster import AwsWire, Cluster, cloud, operation_of
from tests.support.servers import free_port

USERS = 16
CLOUD_USERS, CLOUD_ROUNDS, WARM_SYNCS = 4, 10, 4
REVIEWS = 10
MOST_GROWTH = {2: 1.1, 4: 1.15, 8: 1.25}
"""Of the processor time a sync, from one worker."""
MOST_CALLS = {1: 8, 6: 11}
MOST_CLOUD_GROWTH = 1.25

NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream servers {{ server 127.0.0.1:{back}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{front}; client_max_body_size 2g; keepalive_timeout 300s;
    location / {{
      proxy_pass http://servers; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_request_buffering off; proxy_buffering off; proxy_read_timeout 300s;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Figures:
    """Of one server or of several."""

    rate: float
    cpu_ms: float
    """Of the server's processes, a sync."""
    p50_ms: float
    p99_ms: float
    calls: float = 0.0
    """To AWS, a sync, but for reads of host keys."""


@contextlib.contextmanager
def nginx(back: int, folder: Path) -> Iterator[str]:
    """A proxy that gives requests to whichever worker takes them; its URL."""
    folder.mkdir()
    front = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(folder=folder, front=front, back=back))
    process = subprocess.Popen(["nginx", "-c", str(configuration)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(500):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", front)).close()
                break
            time.sleep(0.02)
        yield f"http://127.0.0.1:{front}/"
    finally:
        process.terminate()
        process.wait(20)


def behind_nginx(spec: str, work: Path, light: Dataset, seconds: float) -> Figures:
    """All users sync in a loop."""
    target = Target(spec, work)
    end = target.start(USERS)
    try:
        with nginx(end.address[1], work / f"nginx-{target.name}") as url:
            meter = Meter(end.tree)
            result = load.run(load.Plan(url, end.users, light, seconds), 1, meter)
    finally:
        end.stop()
    if result.errors or not result.syncs:
        raise SystemExit(f"{target.name}: {len(result.errors)} errors, {result.errors[:3]}")
    count = len(result.syncs)
    p50, p99 = (load.percentile(result.syncs, share) * 1000 for share in (0.5, 0.99))
    return Figures(count / result.elapsed, meter.server_cpu / count * 1000, p50, p99)


def on_cloud(size: int, folder: Path, light: Dataset) -> Figures:
    """One user after the other syncs by way of servers that take turns, request by request."""
    users = servers.make_users(CLOUD_USERS)
    with (
        aws.moto() as engine,
        cloud(folder / f"place{size}", engine) as place,
        Cluster(folder / f"servers{size}", users, place, size=size) as cluster,
    ):
        devices = [joined(cluster.url, user, light) for user in users]
        for device in devices * WARM_SYNCS:
            device.push_reviews(REVIEWS)
        place.wire.clear()
        trees = [Tree(member.process.pid) for member in cluster.members]
        before, began, times = sum(tree.cpu() for tree in trees), time.perf_counter(), []
        for device in devices * CLOUD_ROUNDS:
            start = time.perf_counter()
            device.push_reviews(REVIEWS)
            times.append(time.perf_counter() - start)
        elapsed = time.perf_counter() - began
        cpu_ms = (sum(tree.cpu() for tree in trees) - before) / len(times) * 1000
        calls = count_calls(place.wire) / len(times)
    p50, p99 = (load.percentile(times, share) * 1000 for share in (0.5, 0.99))
    return Figures(len(times) / elapsed, cpu_ms, p50, p99, calls)


def joined(url: str, user: servers.User, light: Dataset) -> Device:
    connection = Connection(url)
    connection.login(user.name, user.password)
    connection.upload(light.compressed.read_bytes())
    device = Device(connection, light.info)
    device.join()
    return device


def count_calls(wire: AwsWire) -> int:
    """Those that a sync makes; how often a key is read depends on how long ago it was."""
    return sum(
        not (operation_of(call).endswith("GetItem") and b'"hostkey#' in call.body) for call in wire.exchanges
    )


def show(name: str, figures: Figures) -> None:
    calls = f"  {figures.calls:5.1f} calls" if figures.calls else ""
    print(
        f"{name:24} {figures.rate:7.1f} syncs/s  {figures.cpu_ms:6.2f} ms CPU a sync  "
        f"p50 {figures.p50_ms:6.1f} ms  p99 {figures.p99_ms:7.1f} ms{calls}",
        flush=True,
    )


def checks_of_workers(official: Figures, ours: dict[int, Figures]) -> list[Check]:
    found = []
    first = min(ours)
    for workers, most in MOST_GROWTH.items():
        if first == 1 and workers in ours:
            growth = ours[workers].cpu_ms / ours[first].cpu_ms
            found.append(Check(f"CPU a sync, from 1 to {workers} workers", growth, most=most))
    if 2 in ours:
        rate, cpu = ours[2].rate / official.rate, ours[2].cpu_ms / official.cpu_ms
        found.append(Check("2 workers against the official server, rate", rate, least=1.0))
        found.append(Check("2 workers against the official server, CPU", cpu, most=1.4))
    return found


def checks_of_servers(found: dict[int, Figures]) -> list[Check]:
    checks = [
        Check(f"AWS calls a sync, {size} server{'s' * (size > 1)}", found[size].calls, most=most)
        for size, most in MOST_CALLS.items()
        if size in found
    ]
    first, last = min(found), max(found)
    if first != last:
        growth = found[last].cpu_ms / found[first].cpu_ms
        checks.append(Check(f"CPU a sync, from {first} to {last} servers", growth, most=MOST_CLOUD_GROWTH))
    return checks


def median_of(runs: list[Figures]) -> Figures:
    names = ("rate", "cpu_ms", "p50_ms", "p99_ms", "calls")
    return Figures(*(statistics.median(getattr(run, name) for run in runs) for name in names))


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=numbers, default=[1, 2, 4, 8], help="empty: leave them out")
    parser.add_argument("--servers", type=numbers, default=[1, 6], help="empty: leave them out")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "ankibench-cache")
    wanted = parser.parse_args()
    light, checks = datasets.collection("small", wanted.cache), []
    with tempfile.TemporaryDirectory(prefix="spread-") as temporary:
        folder = Path(temporary)
        if wanted.workers:
            specs = {0: "official"} | {
                count: f"ours-{count}=cmd:env ANKISYNCD_WORKERS={count} {sys.executable} -m app.cli.server"
                for count in wanted.workers
            }
            runs: dict[int, list[Figures]] = {count: [] for count in specs}
            for repeat in range(wanted.repeats):
                work = folder / str(repeat)
                work.mkdir()
                for count, spec in specs.items():
                    runs[count].append(behind_nginx(spec, work, light, wanted.seconds))
                    show(spec.partition("=")[0], runs[count][-1])
            found = {count: median_of(figures) for count, figures in runs.items()}
            checks += checks_of_workers(found.pop(0), found)
        if wanted.servers:
            clouds = {}
            for size in wanted.servers:
                clouds[size] = on_cloud(size, folder, light)
                show(f"{size} servers on AWS", clouds[size])
            checks += checks_of_servers(clouds)
    print(checked(checks), end="")
    return 0 if all(check.is_reached for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
