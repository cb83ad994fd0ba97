"""The servers under test: the official one, any command, or a running URL."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from .metering import Tree
from .protocol import Connection, ProtocolError

User = tuple[str, str]


@dataclass
class Endpoint:
    """A running server with the users a scenario may use."""

    url: str
    users: list[User]
    tree: Tree | None = None
    startup: float = 0.0
    idle_rss: int = 0
    idle_pss: int = 0
    process: subprocess.Popen | None = None
    base: Path | None = None

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)

    def stop(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.base:
            shutil.rmtree(self.base, ignore_errors=True)


@dataclass
class Target:
    """`official`, `ours`, `NAME=cmd:COMMAND`, or `NAME=URL` (with `#PID` for accounting).

    A command is started with SYNC_HOST, SYNC_PORT, SYNC_BASE and SYNC_USER1.. in its
    environment, like the official server; {host} {port} {base} are filled in as well.
    """

    spec: str
    work: Path
    external_users: list[User] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name, _, self.where = self.spec.partition("=")
        if self.spec == "official":
            self.where = f"cmd:{shlex.quote(sys.executable)} -m anki.syncserver"
        if self.spec == "ours":
            self.where = f"cmd:{shlex.quote(sys.executable)} -m app.cli.server"
        if not self.where:
            raise SystemExit(f"bad target {self.spec!r}: {Target.__doc__}")

    @property
    def managed(self) -> bool:
        return self.where.startswith("cmd:")

    def start(self, users: int) -> Endpoint:
        if self.managed:
            return self._spawn([(f"user{i}", f"pass{i}") for i in range(users)])
        if len(self.external_users) < users:
            raise SystemExit(f"{self.name}: this scenario needs {users} users, see --users")
        url, _, pid = self.where.partition("#")
        tree = Tree(int(pid)) if pid else None
        return Endpoint(url.rstrip("/") + "/", self.external_users[:users], tree)

    def _spawn(self, users: list[User]) -> Endpoint:
        base = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=self.work))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SYNC_", "ANKISYNCD_"))}
        env |= {f"SYNC_USER{i}": ":".join(user) for i, user in enumerate(users, 1)}
        env |= {"SYNC_HOST": "127.0.0.1", "SYNC_PORT": str(port), "SYNC_BASE": str(base)}
        command = self.where[4:].format(host="127.0.0.1", port=port, base=base)
        with base.with_suffix(".log").open("wb") as log:
            begin = time.perf_counter()
            process = subprocess.Popen(
                shlex.split(command), env=env, stdout=log, stderr=log, start_new_session=True
            )
        end = Endpoint(f"http://127.0.0.1:{port}/", users, Tree(process.pid), 0, 0, 0, process, base)
        while True:
            try:
                with Connection(end.url) as conn:
                    conn.login(*users[0])
                break
            except (OSError, ProtocolError):
                if process.poll() is not None or time.perf_counter() - begin > 60:
                    end.stop()
                    raise SystemExit(f"{self.name} did not start; see its log in {self.work}") from None
                time.sleep(0.005)
        end.startup = time.perf_counter() - begin
        end.idle_rss, end.idle_pss = end.tree.rss(), end.tree.pss()
        return end
