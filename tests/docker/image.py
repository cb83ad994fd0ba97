"""The image, built and started without an engine: buildah in a chroot, on a base from Debian's packages.

The base stands in for the official Python image of the same release: same Python, other paths. It is kept
among buildah's images for the next time. The image itself is built by `docker/image`, as a release is.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import tomllib
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
FOREIGN = {"amd64": "arm64", "arm64": "amd64"}[NATIVE]
QEMU = {"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static"}[FOREIGN]
SUITE = "trixie"
PACKAGES = "ca-certificates,python3,python3-pip,python3-venv"
CA = Path("/etc/ssl/certs/ca-certificates.crt")
UID = 10001
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(*words: str, timeout: float = 300, **variables: str) -> str:
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot", **variables}
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


def need(*programs: str) -> None:
    """Skip, by name, what this machine has not."""
    if os.geteuid():
        pytest.skip("building an image without an engine takes root")
    wanted = ("buildah", "debootstrap", "unshare", "nsenter", *programs)
    missing = [name for name in wanted if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)}")


@functools.cache
def base(architecture: str) -> str:
    """The id of the base image."""
    name = f"localhost/ankisyncd-base:{SUITE}-{architecture}"
    known = run("buildah", "images", "--format", "{{.Name}}:{{.Tag}} {{.ID}}").splitlines()
    found = next((line.split()[1] for line in known if line.split()[0] == name), None)
    return found or _make_base(name, architecture)


def _make_base(name: str, architecture: str) -> str:
    with tempfile.TemporaryDirectory(prefix="ankisyncd-base-") as folder:
        root = Path(folder, "root")
        bootstrap = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", f"--arch={architecture}"]
        if architecture == NATIVE:
            run(*bootstrap, SUITE, str(root), timeout=500)
        else:  # unpacked, and not set up: nothing in it is run while an image is built
            run(*bootstrap, "--foreign", SUITE, str(root), timeout=500)
            for package in (root / "var/cache/apt/archives").glob("*.deb"):
                run("dpkg-deb", "-x", str(package), str(root))
        for rest in ("var/cache/apt/archives", "var/lib/apt/lists", "debootstrap"):
            shutil.rmtree(root / rest, ignore_errors=True)
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        container = run("buildah", "from", "--arch", architecture, "scratch")
        run("buildah", "add", "-q", container, str(root), "/")
        run("buildah", "config", "--arch", architecture, "--os", "linux", "--env", f"PATH={PATH}", container)
        return run("buildah", "commit", "-q", "--rm", container, name)


def build(*architectures: str, out: Path | None = None) -> None:
    """Run `docker/image`."""
    bases = {f"BASE_{name}": base(name) for name in {NATIVE, *architectures}}
    # for the build alone: a machine may trust authorities of its own
    trust = f"-v {CA.parent}:{CA.parent}:ro --env PIP_CERT={CA}" if CA.exists() else ""
    words = ["-o", str(out)] if out else []
    script = str(ROOT / "docker/image")
    run(script, *architectures, *words, timeout=850, BUILDAH_OPTIONS=trust, **bases)


def image(architecture: str) -> str:
    return f"localhost/ankisyncd:{VERSION}-{architecture}"


def emulated_python(code: str) -> str:
    """What Python code prints in the image of the other architecture, under an emulator."""
    name = run("buildah", "from", "--pull-never", "--arch", FOREIGN, image(FOREIGN))
    try:
        root = run("buildah", "mount", name)
        shutil.copy(str(shutil.which(QEMU)), f"{root}/tmp/qemu")
        command = [
            "chroot",
            f"--userspec={UID}:{UID}",
            root,
            "/tmp/qemu",
            "/opt/ankisyncd/bin/python3",
            "-c",
            code,
        ]
        return run(*command, timeout=700)
    finally:
        run("buildah", "umount", name)
        run("buildah", "rm", name)


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
        name = run("buildah", "from", "--pull-never", image(NATIVE))
        config = json.loads(run("buildah", "inspect", "--type", "image", image(NATIVE)))["Docker"]["config"]
        data = folder / "data"
        data.mkdir(mode=0o700)
        os.chown(data, UID, UID)
        root = Path(run("buildah", "mount", name))
        return cls(name, root, config, data, port, folder / "container.log", settings)

    @property
    def environment(self) -> dict[str, str]:
        declared = dict(pair.split("=", 1) for pair in self.config["Env"])
        return declared | {"ANKISYNCD_HOST": "127.0.0.1", "ANKISYNCD_PORT": str(self.port)} | self.settings

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
        script = " && ".join([*mounts, f'exec chroot --userspec={UID}:{UID} {root} "$@"'])
        command = ["unshare", "--mount", "sh", "-c", script, "sh", *self.config["Cmd"]]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(lambda: self.process.poll() is not None or self.is_healthy(), self.log.read_text)
        assert self.process.poll() is None, self.log.read_text()

    def is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def execute(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        """What `docker exec` does: beside the server, with its user, its view of the disk and its settings."""
        assert self.process is not None
        given = [f"{name}={value}" for name, value in self.environment.items()]
        inside = ["chroot", f"--userspec={UID}:{UID}", str(self.root), "env", "-i", *given, *words]
        command = ["nsenter", "-t", str(self.process.pid), "-m", *inside]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)
        return subprocess.CompletedProcess(
            command, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

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
