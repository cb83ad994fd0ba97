"""The image, built and started without an engine: buildah in a chroot, on a base from Debian's packages.

The base stands in for the official Python image of the same release: same Python, other paths.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTFS = ROOT / ".cache" / "image" / "rootfs"
BASE, IMAGE = "localhost/ankisyncd-base:trixie", "localhost/ankisyncd:test"
PACKAGES = "ca-certificates,python3,python3-pip,python3-venv"
HEADERS = "python3-dev"
"""The official image brings them; debootstrap alone does not find all that they need."""

CA = Path("/etc/ssl/certs/ca-certificates.crt")
UID = 10001
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(*words: str, timeout: float = 300) -> str:
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


def need() -> None:
    """Skip, by name, what this machine has not."""
    if os.geteuid():
        pytest.skip("building an image without an engine takes root")
    missing = [
        name for name in ("buildah", "debootstrap", "unshare", "nsenter") if shutil.which(name) is None
    ]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)}")


def build() -> None:
    """Make the image; the base is kept for the next time."""
    if not (ROOTFS / ".done").exists():
        shutil.rmtree(ROOTFS, ignore_errors=True)
        ROOTFS.parent.mkdir(parents=True, exist_ok=True)
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "trixie", str(ROOTFS), timeout=400)
        shutil.copy("/etc/resolv.conf", ROOTFS / "etc/resolv.conf")
        install = f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {HEADERS}"
        run("chroot", str(ROOTFS), "sh", "-c", install)
        (ROOTFS / ".done").touch()
    if BASE not in run("buildah", "images", "--format", "{{.Name}}:{{.Tag}}"):
        container = run("buildah", "from", "scratch")
        run("buildah", "add", "-q", container, str(ROOTFS), "/")
        run("buildah", "config", "--env", f"PATH={PATH}", container)
        run("buildah", "commit", "-q", "--rm", container, BASE)
    # for the build alone: a machine may trust authorities of its own
    trust = ["-v", f"{CA.parent}:{CA.parent}:ro", "--env", f"PIP_CERT={CA}"] if CA.exists() else []
    options = ["--layers", "--pull-never", "--format", "docker", "--build-arg", f"BASE={BASE}"]
    run("buildah", "bud", *options, *trust, "-f", "docker/Dockerfile", "-t", IMAGE, str(ROOT), timeout=500)


@dataclass
class Container:
    """The image with a read-only root, a data folder of its own, and the image's own user and command."""

    name: str
    root: Path
    config: dict
    data: Path
    port: int
    log: Path
    settings: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def make(cls, folder: Path, port: int, **settings: str) -> Container:
        name = run("buildah", "from", "--pull-never", IMAGE)
        config = json.loads(run("buildah", "inspect", "--type", "image", IMAGE))["Docker"]["config"]
        data = folder / "data"
        data.mkdir(mode=0o700)
        os.chown(data, UID, UID)
        root = Path(run("buildah", "mount", name))
        return cls(name, root, config, data, port, folder / "container.log", settings)

    @property
    def environment(self) -> list[str]:
        declared = dict(pair.split("=", 1) for pair in self.config["Env"])
        found = declared | {"ANKISYNCD_HOST": "127.0.0.1", "ANKISYNCD_PORT": str(self.port)} | self.settings
        return [f"{name}={value}" for name, value in found.items()]

    def start(self) -> None:
        root = str(self.root)
        mounts = [
            f"mount --bind {root} {root}",
            f"mount -o remount,ro,bind {root}",
            f"mount --bind {self.data} {root}/data",
            f"mount -t tmpfs tmpfs {root}/tmp",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
        ]
        script = " && ".join([*mounts, f'exec chroot --userspec={UID}:{UID} {root} env -i -C /data "$@"'])
        command = ["unshare", "--mount", "sh", "-c", script, "sh", *self.environment, *self.config["Cmd"]]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 60
        while not self.is_healthy():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def execute(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What `docker exec` does: beside the server, with its user, its view of the disk and its settings."""
        assert self.process is not None
        inside = ["chroot", f"--userspec={UID}:{UID}", str(self.root), "env", "-i", *self.environment, *words]
        command = ["nsenter", "-t", str(self.process.pid), "-m", *inside]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def stop(self) -> int:
        """SIGTERM, as the engine sends it."""
        assert self.process is not None
        self.process.send_signal(signal.Signals[self.config["StopSignal"]])
        return self.process.wait(timeout=90)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        run("buildah", "umount", self.name)
        run("buildah", "rm", self.name)
