"""The scenarios.  Each is set up once per target, then run repeatedly, in turns."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import datasets, load
from .client import Client, file_fingerprint
from .metering import CountingProxy, Meter
from .protocol import Connection, Device
from .targets import Endpoint, Target

Sample = tuple[str, str, float]  # metric, unit, value

# units where more is better
RATES = {"MB/s", "files/s", "syncs/s", "requests/s"}


@dataclass(frozen=True)
class Options:
    cache: Path
    work: Path
    repeats: int
    quick: bool


class Scenario:
    name = ""

    def __init__(self, target: Target, options: Options) -> None:
        self.target, self.options = target, options
        self.work = options.work / f"{self.name}-{target.name}"
        self.endpoint: Endpoint | None = None

    def repeats(self) -> int:
        return self.options.repeats

    def dataset(self, name: str) -> datasets.Dataset:
        return datasets.collection(name, self.options.cache)

    def client(self, name: str, user: int = 0) -> Client:
        return Client(self.work / name, self.endpoint.url, self.endpoint.users[user])

    def meter(self, *, memory: bool = True) -> Meter:
        return Meter(self.endpoint.tree, memory=memory)

    def setup(self) -> None:
        self.endpoint = self.target.start(1)

    def run(self, repeat: int) -> Iterator[Sample]:
        raise NotImplementedError

    def teardown(self) -> None:
        if self.endpoint:
            self.endpoint.stop()


def costs(prefix: str, meter: Meter, per: int = 1, *, memory: bool = True) -> Iterator[Sample]:
    if meter.tree:
        yield f"{prefix} server cpu", "ms", meter.server_cpu / per * 1000
    yield f"{prefix} client cpu", "ms", meter.client_cpu / per * 1000
    if memory and meter.tree:
        yield f"{prefix} peak rss", "MB", meter.peak_rss / 1e6
        yield f"{prefix} rss growth", "MiB", (meter.peak_rss - meter.begin_rss) / 2**20


class Startup(Scenario):
    """Start, first successful login, idle memory, and the cost of a login."""

    name = "startup"

    def setup(self) -> None:
        pass

    def repeats(self) -> int:
        return max(3, self.options.repeats)

    def run(self, repeat: int) -> Iterator[Sample]:
        for users in (1, 32) if self.target.managed else (1,):
            self.endpoint = self.target.start(users)
            if self.target.managed:
                yield f"{users} users: start to first login", "ms", self.endpoint.startup * 1000
                yield f"{users} users: idle rss", "MB", self.endpoint.idle_rss / 1e6
                yield f"{users} users: idle pss", "MB", self.endpoint.idle_pss / 1e6
            if users == 1:
                with self.meter(memory=False) as meter, Connection(self.endpoint.url) as conn:
                    for _ in range(5):
                        conn.login(*self.endpoint.users[0])
                yield "login", "ms", meter.wall / 5 * 1000
            self.endpoint.stop()
            self.endpoint = None


class Full(Scenario):
    """Full upload and download, with a real client and with the raw client."""

    name = "full"

    def sizes(self) -> tuple[str, ...]:
        return ("small", "medium") if self.options.quick else ("small", "medium", "large")

    def setup(self) -> None:
        pass

    def run(self, repeat: int) -> Iterator[Sample]:
        for size in self.sizes():
            self.endpoint = self.target.start(1)  # a fresh one, for its memory figures
            yield from self.one_size(size)
            self.endpoint.stop()
            self.endpoint = None

    def one_size(self, size: str) -> Iterator[Sample]:
        data = self.dataset(size)
        megabytes = data.size / 1e6
        for upload in (True, False):
            way = f"{size} {'upload' if upload else 'download'}"
            client = self.client("device").open(data.path if upload else None)
            with self.meter() as meter:
                client.full(upload=upload)
            if not upload and file_fingerprint(client.path) != file_fingerprint(data.path):
                raise RuntimeError(f"{way}: the downloaded collection differs")
            client.reopen()
            client.sync()
            client.close()
            yield way, "s", meter.wall
            yield way, "MB/s", megabytes / meter.wall
            yield from costs(way, meter)
        with Connection(self.endpoint.url) as conn:
            conn.login(*self.endpoint.users[0])
            body = data.compressed.read_bytes()
            for way, piece in (("raw upload", 0), ("raw upload in 4 KB chunks", 4096)):
                with self.meter() as meter:
                    conn.upload(body, piece)
                yield f"{size} {way}", "s", meter.wall
                yield from costs(f"{size} {way}", meter)
            with self.meter() as meter:
                received = conn.download()
            yield f"{size} raw download", "s", meter.wall
            yield f"{size} raw download wire", "MB", received / 1e6
            yield from costs(f"{size} raw download", meter)
            if meter.tree:
                yield f"{size} rss kept afterwards", "MB", meter.tree.rss() / 1e6


class Incremental(Scenario):
    """No-op syncs, and reviews pushed by device A then pulled by device B."""

    name = "incremental"

    def sizes(self) -> tuple[str, ...]:
        return ("medium",) if self.options.quick else ("medium", "large")

    def setup(self) -> None:
        self.endpoint = self.target.start(len(self.sizes()))
        self.pairs: dict[str, tuple[Client, Client]] = {}
        for user, size in enumerate(self.sizes()):
            a = self.client(f"{size}-a", user).open(self.dataset(size).path)
            a.full(upload=True)
            b = self.client(f"{size}-b", user).open()
            b.full(upload=False)
            for device in (a, b):
                device.reopen()
            for device in (a, b, a):
                device.sync()
            self.pairs[size] = a, b

    def run(self, repeat: int) -> Iterator[Sample]:
        for size, (a, b) in self.pairs.items():
            yield from self.no_op(size, a)
            for count in (10, 100) if self.options.quick else (10, 100, 1000):
                yield from self.push_pull(f"{size} {count} reviews", a, b, count)
            if repeat == 0:
                yield from self.requests(size, a, b)
            if a.fingerprint() != b.fingerprint():
                raise RuntimeError(f"{size}: the devices differ after syncing")

    def no_op(self, size: str, client: Client) -> Iterator[Sample]:
        client.sync()  # another device's sync makes the next one a full exchange
        with self.meter(memory=False) as meter:
            for _ in range(50):
                client.sync()
        yield f"{size} no-op", "ms", meter.wall / 50 * 1000
        yield from costs(f"{size} no-op", meter, 50, memory=False)

    def push_pull(self, name: str, a: Client, b: Client, count: int) -> Iterator[Sample]:
        # a short sync is repeated, since one alone is noisy
        rounds = {10: 8, 100: 4}.get(count, 1)
        push, pull = [], []
        for _ in range(rounds):
            rows = a.review(count)
            for client, meters in ((a, push), (b, pull)):
                with self.meter(memory=False) as meter:
                    client.sync()
                meters.append(meter)
        for way, meters in (("push", push), ("pull", pull)):
            walls = sorted(m.wall for m in meters)
            yield f"{name} {way}", "ms", walls[len(walls) // 2] * 1000
            if meters[0].tree:
                yield f"{name} {way} server cpu", "ms", sum(m.server_cpu for m in meters) / rounds * 1000
            yield f"{name} {way} client cpu", "ms", sum(m.client_cpu for m in meters) / rounds * 1000
        yield f"{name} rows", "rows", rows

    def requests(self, size: str, a: Client, b: Client) -> Iterator[Sample]:
        """Requests and bytes of one sync, seen by a proxy (not timed)."""
        a.sync()
        for way, client, reviews in (
            ("no-op", a, 0),
            ("100 reviews push", a, 100),
            ("100 reviews pull", b, 0),
        ):
            if reviews:
                a.review(reviews)
            proxy = CountingProxy(*self.endpoint.address)
            client.sync(proxy.url)
            proxy.close()
            yield f"{size} {way} requests", "n", proxy.requests.total()
            yield f"{size} {way} bytes up", "KB", proxy.bytes["up"] / 1e3
            yield f"{size} {way} bytes down", "KB", proxy.bytes["down"] / 1e3

    def teardown(self) -> None:
        for client in itertools.chain(*getattr(self, "pairs", {}).values()):
            client.close()
        super().teardown()


class Methods(Scenario):
    """One sync of 10 reviews by the raw client, request by request: the server's share."""

    name = "methods"
    rounds = 20

    def run(self, repeat: int) -> Iterator[Sample]:
        for size in ("small", "medium") if self.options.quick else ("small", "medium", "large"):
            data = self.dataset(size)
            with Connection(self.endpoint.url) as conn:
                conn.login(*self.endpoint.users[0])
                conn.upload(data.compressed.read_bytes())
                device = Device(conn, data.info)
                device.join()
                device.push_reviews(10)
                conn.timings = []
                with self.meter(memory=False) as meter:
                    for _ in range(self.rounds):
                        device.push_reviews(10)
                timings = conn.timings
            yield f"{size} whole sync", "ms", meter.wall / self.rounds * 1000
            yield from costs(f"{size} whole sync", meter, self.rounds, memory=False)
            for method in dict.fromkeys(name for name, _ in timings):
                took = statistics.median(t for name, t in timings if name == method)
                yield f"{size} {method}", "ms", took * 1000


class Media(Scenario):
    """Upload of many small and some large files, and download by a fresh client."""

    name = "media"

    def setup(self) -> None:
        sets = ((200, 5),) if self.options.quick else ((2000, 0), (0, 50))
        self.sets = {
            " + ".join(f"{n} {kind}" for n, kind in ((small, "small"), (big, "large")) if n): (small, big)
            for small, big in sets
        }
        # an account for every upload, since each must find the server empty
        self.endpoint = self.target.start(len(self.sets) * self.repeats())
        self.free = iter(range(len(self.endpoint.users)))

    def run(self, repeat: int) -> Iterator[Sample]:
        for name, (small, big) in self.sets.items():
            source = datasets.media(self.options.cache, small, big)
            files, size = datasets.folder_totals(source)
            user = next(self.free)
            for way in ("upload", "download"):
                client = self.client("device", user).open()
                if way == "upload":
                    client.link_media(source)
                with self.meter() as meter:
                    client.sync_media()
                found = datasets.folder_totals(Path(client.col.media.dir()))
                if found != (files, size):
                    raise RuntimeError(f"media {way}: {found}, expected {(files, size)}")
                client.close()
                yield f"{name} {way}", "s", meter.wall
                yield f"{name} {way}", "files/s", files / meter.wall
                yield f"{name} {way}", "MB/s", size / 1e6 / meter.wall
                yield from costs(f"{name} {way}", meter)


class Concurrency(Scenario):
    """Many users syncing 10 reviews each in a loop (raw clients), alone and next to
    one user who uploads and downloads a big collection over and over."""

    name = "concurrency"
    processes = 2

    def setup(self) -> None:
        self.levels = (8,) if self.options.quick else (8, 32)
        self.seconds = 3.0 if self.options.quick else 15.0
        self.heavy = self.dataset("medium" if self.options.quick else "large")
        self.light = self.dataset("small")
        self.endpoint = self.target.start(max(self.levels) + 1)

    def run(self, repeat: int) -> Iterator[Sample]:
        with Connection(self.endpoint.url) as conn:
            conn.login(*self.endpoint.users[1])
            conn.upload(self.light.compressed.read_bytes())
            device = Device(conn, self.light.info)
            device.no_op()
            with self.meter(memory=False) as meter:
                for _ in range(300):
                    device.no_op()
            yield "1 user, meta only", "requests/s", 300 / meter.wall
            yield from costs("1 user, meta only", meter, 300, memory=False)
        for users in self.levels:
            for heavy in (False, True):
                name = f"{users} users" + (" + 1 big transfer" if heavy else "")
                yield from self.level(name, users, heavy=heavy)

    def level(self, name: str, users: int, *, heavy: bool) -> Iterator[Sample]:
        plan = load.Plan(
            self.endpoint.url,
            self.endpoint.users[1 : users + 1],
            self.light,
            self.seconds,
            self.endpoint.users[0] if heavy else None,
            self.heavy,
        )
        meter = self.meter()
        result = load.run(plan, self.processes, meter)
        done = len(result.syncs)
        yield name, "syncs/s", done / result.elapsed
        for label, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)):
            yield f"{name} {label}", "ms", load.percentile(result.syncs, share) * 1000
        yield f"{name} request p99", "ms", load.percentile(result.requests, 0.99) * 1000
        yield f"{name} errors", "n", len(result.errors)
        for error in result.errors[:3]:
            print(f"  error: {error}")
        if meter.tree:
            if not heavy:
                yield f"{name} server cpu per sync", "ms", meter.server_cpu / max(done, 1) * 1000
            yield f"{name} server cores busy", "cores", meter.server_cpu / meter.wall
            yield f"{name} peak rss", "MB", meter.peak_rss / 1e6
        yield f"{name} client cores busy", "cores", result.client_cpu / result.elapsed
        if heavy:
            yield f"{name} transfers", "n", result.transfers


ALL = {s.name: s for s in (Startup, Full, Incremental, Methods, Media, Concurrency)}
