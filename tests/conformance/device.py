"""A device as the scenarios see it: a real client in a process of its own, driven by `driver.py`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.servers import User

DRIVER = Path(__file__).with_name("driver.py")
NEWEST = "newest"
REPOSITORY = Path(__file__).resolve().parents[2]
CLIENTS = Path(os.environ.get("ANKI_CLIENTS", REPOSITORY / ".cache" / "clients"))


class ClientError(Exception):
    """What a client's user would have been shown."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.message = kind, message


class Driver:
    """A process of one client version; a device borrows it and gives it back."""

    def __init__(self, version: str, log: Path) -> None:
        self.version, self.log = version, log
        python = sys.executable if version == NEWEST else str(CLIENTS / version / "bin" / "python")
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SYNC_", "ANKISYNCD_", "PYTHONPATH"))}
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [python, str(DRIVER)],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
            )

    def send(self, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([operation, args, kwargs]) + "\n")
        self.process.stdin.flush()

    def receive(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ClientError("Died", self.log.read_text(errors="replace")[-2000:])
        answer = json.loads(line)
        if "error" in answer:
            raise ClientError(*answer["error"])
        return answer["result"]

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


class Pool:
    """Idle drivers by version: starting one takes longer than most scenarios."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.idle: dict[str, list[Driver]] = {}
        self.started = 0

    def borrow(self, version: str) -> Driver:
        if self.idle.get(version):
            return self.idle[version].pop()
        self.started += 1
        return Driver(version, self.folder / f"client-{version}-{self.started}.log")

    def give_back(self, driver: Driver) -> None:
        self.idle.setdefault(driver.version, []).append(driver)

    def end(self) -> None:
        for drivers in self.idle.values():
            for driver in drivers:
                driver.end()


class Device:
    """Every operation of `driver.Device` is a method: `device.add_notes([["front", "back"]])`."""

    def __init__(self, pool: Pool, version: str, folder: Path) -> None:
        self.pool, self.version, self.folder = pool, version, folder
        self.driver = pool.borrow(version)
        self.call("open", str(folder / "collection.anki2"))

    def call(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        self.driver.send(operation, args, kwargs)
        return self.driver.receive()

    def __getattr__(self, operation: str) -> Any:
        if operation.startswith("_"):
            raise AttributeError(operation)
        return lambda *args, **kwargs: self.call(operation, *args, **kwargs)

    def begin(self, operation: str, *args: Any, **kwargs: Any) -> None:
        """Let it work while the test goes on; `self.driver.receive()` has the result."""
        self.driver.send(operation, args, kwargs)

    def die(self) -> None:
        """Killed by the system in the middle of whatever it does; comes up again with what is on disk."""
        url, user = self.credentials
        self.driver.end()
        self.driver = self.pool.borrow(self.version)
        self.call("open", str(self.folder / "collection.anki2"))
        self.log_in(url, user)

    def log_in(self, url: str, user: Any) -> None:
        self.credentials = url, user
        self.call("login", url, user.name, user.password)

    def end(self) -> None:
        if self.driver.process.poll() is None:
            self.call("close")
            self.pool.give_back(self.driver)

    # a few words that scenarios use often

    def settle(self) -> None:
        """Sync; fails where a one-way sync would be asked for."""
        required = self.call("sync")
        assert required == "no changes", f"a full sync is required: {required}"

    def first_download(self) -> None:
        assert self.call("sync") in {"full", "download"}
        self.call("download")

    def first_upload(self) -> None:
        assert self.call("sync") in {"full", "upload"}
        self.call("upload")


@contextlib.contextmanager
def made_devices(folder: Path, user: User) -> Iterator[Callable[[str], Device]]:
    """Makes devices of the newest client, logged in to a URL; they end with the block."""
    pool, devices = Pool(folder), []

    def make(url: str) -> Device:
        device = Device(pool, NEWEST, folder / f"device{len(devices)}")
        devices.append(device)
        device.log_in(url, user)
        return device

    yield make
    for device in devices:
        device.end()
    pool.end()


def converge(*devices: Device) -> None:
    """Sync in turn until each has what the others sent."""
    for device in (*devices, *devices[:-1]):
        device.settle()


def assert_same(first: Device, *others: Device) -> None:
    """All devices hold the same collection, and Anki's own check finds nothing to mend."""
    expected = first.state()
    for other in others:
        found = other.state()
        # versions keep different things in there, and drop what they do not know
        skipped = {"card data"} if first.version != other.version else set()
        for part, value in expected.items():
            if part in skipped:
                continue
            assert found[part] == value, f"{part} of the devices differ: {differing(value, found[part])}"


def differing(first: Any, second: Any) -> list[Any]:
    """The rows that only one of them has."""
    if not isinstance(first, list):
        return [first, second]
    return [["first", row] for row in first if row not in second] + [
        ["second", row] for row in second if row not in first
    ]
