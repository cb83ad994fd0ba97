"""Sync servers as tests see them: a process on a free port with its own data folder and users.

Every server speaks the environment of the official one, so the same scenario can be put to ours
and, as referee, to `anki.syncserver`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.waiting import wait_until

OURS = "ours"
OFFICIAL = "official"
COMMANDS = {
    OURS: (sys.executable, "-m", "app.cli.server"),
    OFFICIAL: (sys.executable, "-m", "anki.syncserver"),
}
SETTINGS = ("SYNC_", "ANKISYNCD_", "MAX_SYNC_", "PASSWORDS_HASHED")
REPOSITORY = Path(__file__).resolve().parents[2]
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class User:
    name: str
    password: str


@dataclass
class Server:
    """A running server; `url` ends with a slash, as clients want it."""

    kind: str
    url: str
    port: int
    folder: Path
    users: list[User]
    log_path: Path
    process: subprocess.Popen[bytes]
    taken: int = field(default=0)

    def next_user(self) -> User:
        """A user that no test of this server has used yet."""
        if self.taken == len(self.users):
            raise AssertionError(f"the server has only {len(self.users)} users")
        self.taken += 1
        return self.users[self.taken - 1]

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """End it as a power cut would, workers included."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Ask it to finish, as an operator would; returns its exit code."""
        if self.running:
            # the official server only listens to an interrupt from the keyboard
            self.process.send_signal(signal.SIGINT if self.kind == OFFICIAL else signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def make_users(count: int) -> list[User]:
    return [User(f"user{i}", f"pass-{i}") for i in range(1, count + 1)]


def cheap_hash(password: str) -> str:
    """A PBKDF2 hash of few rounds in the PHC format: hundreds of users then cost no time at the start."""
    salt = b"salt of the tests"
    digest = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1000, 32)
    encoded = [base64.b64encode(part).decode().rstrip("=") for part in (salt, digest)]
    return "$pbkdf2-sha256$i=1000,l=32$" + "$".join(encoded)


def hashed(users: list[User]) -> dict[str, str]:
    """The environment of a server that is given hashes instead of passwords."""
    found = {f"SYNC_USER{i}": f"{u.name}:{cheap_hash(u.password)}" for i, u in enumerate(users, 1)}
    return found | {"PASSWORDS_HASHED": "1"}


def environment(users: list[User], folder: Path, port: int, extra: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without its own server settings, and the official server's variables."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(SETTINGS)}
    env |= {f"SYNC_USER{i}": f"{u.name}:{u.password}" for i, u in enumerate(users, 1)}
    env |= {"SYNC_HOST": "127.0.0.1", "SYNC_PORT": str(port), "SYNC_BASE": str(folder)}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), env.get("PYTHONPATH")]))
    return env | extra


def start(
    kind: str,
    folder: Path,
    users: list[User],
    extra: Mapping[str, str] | None = None,
) -> Server:
    """Start a server and wait until it answers `/health`; its log lies beside its data folder."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    log_path = folder.with_name(folder.name + ".log")
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            COMMANDS[kind],
            env=environment(users, folder, port, extra or {}),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    server = Server(kind, f"http://127.0.0.1:{port}/", port, folder, users, log_path, process)
    try:
        wait_until(lambda: server.healthy() or not server.running)
        assert server.running
    except AssertionError:
        server.kill()
        raise AssertionError(f"the {kind} server did not start:\n{server.log}") from None
    return server


@contextlib.contextmanager
def serving(
    kind: str,
    folder: Path,
    users: int | list[User],
    extra: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    server = start(kind, folder, make_users(users) if isinstance(users, int) else users, extra)
    try:
        yield server
    finally:
        server.stop()
