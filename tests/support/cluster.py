"""Several servers on one bucket and one table, each with an empty folder of its own, behind one address.

    with cloud() as place, Cluster(tmp_path, make_users(2), place) as cluster:
        device.log_in(cluster.url, cluster.next_user())
        cluster.replace(0)      # SIGKILL, and another one with nothing on its disk

To a scenario a cluster looks like `servers.Server`: `url`, `port`, `kind`, `next_user`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from tests.support import aws, servers
from tests.support.proxy import Exchange, Fault, Proxy
from tests.support.servers import User


class AwsWire(Proxy):
    """What lies between servers and AWS: counts, delays, and loses answers of calls that have landed."""

    def __init__(self, port: int, delay_s: Callable[[Exchange], float] = lambda _exchange: 0) -> None:
        self.is_doomed: Callable[[Exchange], bool] = lambda _exchange: False
        """Called when a call has landed; what is doomed gets no answer."""
        self.on_call: Callable[[Exchange], Fault] = lambda _exchange: Fault.NONE
        self.delay_s = delay_s
        self.flying = self.most_flying = 0
        super().__init__([port], fate=self._begin)

    def _begin(self, exchange: Exchange) -> Fault:
        fault = self.on_call(exchange)
        if fault is Fault.NONE:
            with self._lock:
                self.flying += 1
                self.most_flying = max(self.most_flying, self.flying)
            time.sleep(self.delay_s(exchange))
        return fault

    def _pass_answer(self, exchange: Exchange, answers: BinaryIO, client, *, lost: bool) -> bool:
        try:
            return super()._pass_answer(exchange, answers, client, lost=lost)
        finally:
            with self._lock:
                self.flying -= 1

    def _is_lost(self, exchange: Exchange) -> bool:
        return self.is_doomed(exchange)

    def clear(self) -> None:
        self.exchanges.clear()
        self.most_flying = 0


def operation_of(exchange: Exchange) -> str:
    """Which call of AWS it is: `GetItem`, `GET` of an object, ..."""
    target = exchange.headers.get("x-amz-target", "")
    return target.rpartition(".")[2] or exchange.line.split()[0]


@dataclass
class Place:
    """A bucket and, but for heads in S3, a table; all calls pass `wire`."""

    engine: str
    wire: AwsWire
    heads: str = "dynamodb"
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, str]:
        found = {
            "ANKISYNCD_BACKEND": "aws",
            "ANKISYNCD_HEADS": self.heads,
            "ANKISYNCD_S3_BUCKET": f"bucket-{self.name}",
            "ANKISYNCD_S3_PREFIX": "some/prefix",
            "ANKISYNCD_WORKERS": "1",
            "AWS_ENDPOINT_URL": self.wire.url,
            "AWS_REGION": aws.REGION,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
        }
        if self.heads == "dynamodb":
            found["ANKISYNCD_DYNAMODB_TABLE"] = f"table-{self.name}"
        return found | self.extra


def control(place: Place, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`ankisyncctl` with the settings of a place."""
    env = servers.environment([], folder, 1, place.settings)
    command = [sys.executable, "-m", "app.cli", *words]
    return subprocess.run(
        command, env=env, cwd=servers.REPOSITORY, capture_output=True, text=True, check=False, timeout=120
    )


@contextmanager
def cloud(folder: Path, engine: str, heads: str = "dynamodb") -> Iterator[Place]:
    """A place of its own in an engine, made by `ankisyncctl init`."""
    with AwsWire(int(engine.rpartition(":")[2])) as wire:
        place = Place(engine, wire, heads)
        made = control(place, folder, "init")
        assert made.returncode == 0, made.stderr
        yield place


class Cluster:
    """`seed` None: the servers take turns; else each request goes to one drawn at random."""

    kind = servers.OURS

    def __init__(
        self, folder: Path, users: list[User], place: Place, *, size: int = 3, seed: int | None = None
    ) -> None:
        self.folder, self.users, self.place, self.taken = folder, users, place, 0
        self.started = 0
        self._lock = threading.Lock()
        self.members = [self._start() for _ in range(size)]
        ports = [member.port for member in self.members]
        self.proxy = Proxy(ports) if seed is None else Proxy.spread(ports, seed)
        self.url, self.port = self.proxy.url, int(self.proxy.url.rpartition(":")[2].strip("/"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.proxy.close()
        for member in self.members:
            member.kill()

    def next_user(self) -> User:
        self.taken += 1
        return self.users[self.taken - 1]

    @property
    def log(self) -> str:
        return "\n".join(member.log for member in self.members)

    def kill_busy(self) -> int:
        """SIGKILL for the one that serves the request that came last; its index."""
        index = self.proxy.route(self.proxy.exchanges[-1])
        self.members[index].kill()
        return index

    def replace_all(self) -> None:
        with ThreadPoolExecutor(len(self.members)) as threads:
            list(threads.map(self.replace, range(len(self.members))))

    def replace(self, index: int) -> None:
        """End one by SIGKILL, and put another one there that finds nothing on its disk."""
        gone = self.members[index]
        gone.kill()
        shutil.rmtree(gone.folder, ignore_errors=True)
        self.members[index] = self._start()
        self.proxy.ports[index] = self.members[index].port

    def _start(self) -> servers.Server:
        with self._lock:
            self.started += 1
            number = self.started
        extra = servers.hashed(self.users) | self.place.settings
        return servers.start(servers.OURS, self.folder / f"server{number}", self.users, extra)
