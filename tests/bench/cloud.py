"""Prints how long syncs take with the latencies of AWS, and how many go through at once.

python -m tests.bench.cloud [small|medium|large ...]

S3 20 ms, DynamoDB 5 ms and Cognito 80 ms per call are injected into moto, which adds a few of its own and,
with the clients, shares the machine with the servers. Where "machine busy" is near 100 %, the machine is
the limit and not the latency: take throughput as a lower bound there.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import apsw
import psutil

from storage.collection.collection import Collection
from storage.collection.engine.codec import Codec
from storage.collection.engine.empty import create_empty
from storage.collection.schema import configure
from storage.collection.stamps import read_stamps
from storage.media.blobs import Blobs, NewBlob
from tests.support import aws, servers
from tests.support.cluster import Cluster, Place, cloud
from tests.support.servers import User
from tests.support.userpool import UserPool
from tests.support.wire import Wire

LATENCY_MS = {"s3": 20, "dynamodb": 5, "cognito": 80}
SIZES = {"small": 2_000, "medium": 20_000, "large": 200_000}
REVIEWS = 100
ROUNDS = 7
SYNCS_AT_ONCE = (2, 16)
WORKERS = (1, 2, 4)
LOAD_S = 8.0
STREAM_BYTES_PER_S = 50_000_000
LARGE_BYTES = 64 << 20
NOW_S = 1_800_000_000
numbers = itertools.count(1)


class Data:
    """A collection with as many cards as notes and two reviews for each."""

    def __init__(self, path: Path, cards: int) -> None:
        create_empty(path)
        connection = apsw.Connection(str(path))
        configure(connection)
        notetype = connection.execute("SELECT min(id) FROM notetypes").get
        ids = [1_600_000_000_000 + number for number in range(cards)]
        text = "a sentence of some length, as people have them on their cards, number "
        with connection:
            connection.executemany(
                "INSERT INTO notes VALUES (?, ?, ?, ?, 0, '', ?, ?, 0, 0, '')",
                ((i, f"g{i}", notetype, NOW_S, f"{text}{i}\x1fback {i * 7919}", f"{text}{i}") for i in ids),
            )
            connection.executemany(
                "INSERT INTO cards VALUES (?, ?, 1, 0, ?, 0, 2, 2, 1, 9, 2500, 3, 0, 0, 0, 0, 0, '{}')",
                ((i, i, NOW_S) for i in ids),
            )
            connection.executemany(
                "INSERT INTO revlog VALUES (?, ?, 0, 3, 9, 8, 2500, 4000, 1)",
                ((i - half * 500_000_000_000, i) for i in ids for half in (0, 1)),
            )
            for table in ("decks", "deck_config", "notetypes", "tags", "config"):
                connection.execute(f"UPDATE {table} SET usn = 0")
        self.counts = Collection(connection, Codec(), read_stamps(connection)).recount()
        connection.pragma("journal_mode", "delete")
        connection.close()
        self.cards = ids
        self.content = path.read_bytes()


class Client:
    """A device that reviews; speaks the protocol without an engine of its own."""

    def __init__(self, port: int, user: User, data: Data) -> None:
        self.data, self.user = data, user
        self.wire = Wire(port)
        self.wire.login(user.name, user.password)
        self.reviews = 0

    def upload(self) -> None:
        answer = self.wire.upload(self.data.content)
        assert answer.body == b"OK", answer.body
        self.usn = self.ask("meta", {"v": 11, "cv": "bench"})["usn"]

    def log_in_again(self) -> None:
        self.wire.login(self.user.name, self.user.password)

    def move(self, port: int) -> None:
        hkey = self.wire.hkey
        self.wire = Wire(port, hkey)

    def ask(self, method: str, payload):
        answer = self.wire.call(method, payload)
        assert answer.ok, (method, answer, answer.body)
        return answer.json

    def look(self) -> None:
        """A sync with nothing to do."""
        self.ask("meta", {"v": 11, "cv": "bench"})

    def sync(self) -> None:
        number = next(numbers)
        self.wire.skey = f"s{number}"
        self.ask("meta", {"v": 11, "cv": "bench"})
        self.ask("start", {"minUsn": self.usn, "lnewer": True})
        self.ask("applyChanges", {"changes": {"models": [], "decks": [[], []], "tags": []}})
        self.ask("chunk", {})
        start = number * 37 % len(self.data.cards)
        chosen = (self.data.cards * 2)[start : start + REVIEWS]
        cards = [
            [i, i, 1, 0, NOW_S + number, self.usn, 2, 2, 9, 10, 2500, 4, 0, 0, 0, 0, 0, "{}"] for i in chosen
        ]
        now_ms = (NOW_S + number) * 1000
        log = [[now_ms + at, i, self.usn, 3, 9, 8, 2500, 4000, 1] for at, i in enumerate(chosen)]
        self.ask("applyChunk", {"chunk": {"done": True, "revlog": log, "cards": cards, "notes": []}})
        self.reviews += REVIEWS
        found = list(self.data.counts)
        found[2] += self.reviews
        check = self.ask("sanityCheck2", {"client": [[0, 0, 0], *found]})
        assert check["status"] == "ok", check
        self.ask("finish", {})
        self.usn += 1


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1000


def row(label: str, *figures: str) -> None:
    print(f"  {label:<38}" + "".join(f"{figure:>16}" for figure in figures), flush=True)


@contextlib.contextmanager
def distant_place(folder: Path) -> Iterator[Place]:
    """A bucket, a table and nothing but the engine's delay between them and the servers."""
    with aws.moto(LATENCY_MS) as engine, cloud(folder, engine) as place:
        place.extra = {"AWS_ENDPOINT_URL": engine}
        yield place


def bench_sizes(place: Place, folder: Path, names: list[str]) -> None:
    print(f"One server with one worker, one client; a sync of {REVIEWS} reviews")
    row("collection", "upload", "nothing to do", "warm", "cold", "RSS before", "RSS after")
    for name in names:
        data = Data(folder / f"{name}.anki2", SIZES[name])
        users = servers.make_users(1)
        with Cluster(folder / f"sizes-{name}", users, place, size=1) as cluster:
            client = Client(cluster.members[0].port, users[0], data)
            before = memory_of(cluster)
            upload = timed(client.upload)
            client.sync()
            idle = [timed(client.look) for _ in range(ROUNDS)]
            warm = [timed(client.sync) for _ in range(ROUNDS)]
            after = memory_of(cluster)
            cold = []
            for _ in range(3):
                cluster.replace(0)
                client.move(cluster.members[0].port)
                client.look()  # the process's first request imports
                cold.append(timed(client.sync))
        times = (upload, *map(statistics.median, (idle, warm, cold)))
        label = f"{name}, {SIZES[name]} cards, {len(data.content) >> 20} MB"
        row(label, *(f"{ms:.0f} ms" for ms in times), f"{before} MB", f"{after} MB")


def bench_login(place: Place, folder: Path) -> None:
    pool = UserPool(place.extra["AWS_ENDPOINT_URL"])
    user = pool.add("somebody")
    with Cluster(folder / "login", [], replace(place, extra=place.extra | pool.settings), size=1) as cluster:
        wire = Wire(cluster.members[0].port)
        wire.login(user.name, user.password)
        times = [timed(lambda: wire.login(user.name, user.password)) for _ in range(ROUNDS)]
    row("login through Cognito", f"{statistics.median(times):.0f} ms")


def bench_objects() -> None:
    """The object store alone, as a worker has it, with a bucket that costs no time but the injected one."""
    place = f"S3 {LATENCY_MS['s3']} ms, {STREAM_BYTES_PER_S / 1e6:.0f} MB/s a connection"
    print(f"Objects, {place}")
    command = [sys.executable, "-m", "tests.support.far_s3", str(LATENCY_MS["s3"]), str(STREAM_BYTES_PER_S)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as far:
        objects = aws.s3_objects(far.stdout.readline().strip(), "bucket")
        blobs = Blobs(objects, clock_ms=lambda: 0, fresh_ms=1, in_parallel=objects.in_parallel)

        def upload() -> None:
            """As clients do it: 25 files a request."""
            for _ in range(2):
                contents = [random.randbytes(20_000) for _ in range(25)]
                blobs.put_new([NewBlob(hashlib.sha256(content).digest(), content) for content in contents])

        objects.put("large", bytes(LARGE_BYTES))
        uploads = [timed(upload) for _ in range(ROUNDS)]
        streams = [timed(lambda: deque(objects.stream("large"), maxlen=0)) for _ in range(ROUNDS)]
        far.stdin.close()
    row("50 media files of 20 KB (goal 300 ms)", f"{statistics.median(uploads):.0f} ms")
    rate = LARGE_BYTES / 1000 / statistics.median(streams)
    row(f"stream of {LARGE_BYTES >> 20} MB", f"{statistics.median(streams):.0f} ms", f"{rate:.0f} MB/s")


def bench_throughput(place: Place, folder: Path) -> None:
    data = Data(folder / "load.anki2", SIZES["small"])
    print(f"Throughput, {len(data.content) >> 10} KB collections, warm")
    row("workers", "syncs per s", "p50", "p95", "server CPU/sync", "machine busy", "RSS, all")
    for at_once, workers in itertools.product(SYNCS_AT_ONCE, WORKERS):
        users = servers.make_users(at_once)
        here = replace(place, extra=place.extra | {"ANKISYNCD_WORKERS": str(workers)})
        with Cluster(folder / f"load{at_once}-{workers}", users, here, size=1) as cluster:
            clients = [Client(cluster.members[0].port, user, data) for user in users]
            for client in clients:
                client.upload()
            before = cpu_s(cluster)
            psutil.cpu_percent()
            times = load(clients)
            busy = psutil.cpu_percent()
            cpu_ms = (cpu_s(cluster) - before) / (len(times) + len(clients)) * 1000
            rss = memory_of(cluster)
        p50, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        row(
            f"{workers}, {at_once} users at once",
            f"{len(times) / LOAD_S:.1f}",
            f"{p50:.0f} ms",
            f"{p95:.0f} ms",
            f"{cpu_ms:.0f} ms",
            f"{busy:.0f} %",
            f"{rss} MB",
        )


def load(clients: list[Client]) -> list[float]:
    """Times of all syncs that were begun within `LOAD_S`."""
    times: list[float] = []
    end = time.monotonic() + LOAD_S

    def work(client: Client) -> None:
        client.sync()
        while time.monotonic() < end:
            times.append(timed(client.sync))

    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def memory_of(cluster: Cluster) -> int:
    """Of the server's processes together, in MB; pages that they share are counted in each."""
    return sum(process.memory_info().rss for process in processes_of(cluster)) >> 20


def cpu_s(cluster: Cluster) -> float:
    """Seconds of processor time that the server's processes have used, whatever else runs here."""
    times = [process.cpu_times() for process in processes_of(cluster)]
    return sum(one.user + one.system for one in times)


def processes_of(cluster: Cluster) -> list[psutil.Process]:
    server = psutil.Process(cluster.members[0].process.pid)
    return [server, *server.children(recursive=True)]


def main() -> None:
    names = sys.argv[1:] or list(SIZES)
    print("Injected: " + ", ".join(f"{name} {ms} ms" for name, ms in LATENCY_MS.items()))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bench_objects()
        with distant_place(folder) as place:
            bench_sizes(place, folder, names)
            bench_login(place, folder)
            bench_throughput(place, folder)


if __name__ == "__main__":
    main()
