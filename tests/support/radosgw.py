"""Ceph's radosgw in memory, as a second engine for S3. Debian: `radosgw ceph-mon ceph-osd ceph-common`.

One monitor, one OSD without a disk, one gateway, all on loopback and gone with their folder.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.aws import ACCESS_KEY
from tests.support.servers import free_port
from tests.support.waiting import wait_for_port

_STARTS = 2
"""Its parts find each other by luck of timing on a busy machine."""

PROGRAMS = ("radosgw", "ceph-mon", "ceph-osd", "ceph", "monmaptool", "radosgw-admin")


@contextmanager
def radosgw() -> Iterator[str]:
    """The address of a fresh gateway; skips the test where Ceph is not installed."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        pytest.skip(f"radosgw needs Ceph, and {', '.join(absent)} is not installed")
    failures = []
    for _ in range(_STARTS):
        with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
            try:
                address = _start(Path(folder), running)
            except (subprocess.SubprocessError, RuntimeError) as exc:
                failures.append(f"{type(exc).__name__}: {exc}")
                continue
            yield address
            return
    pytest.skip(f"Ceph is installed, but does not start on this machine: {'; '.join(failures)}")


def _start(folder: Path, running: ExitStack) -> str:
    cluster, port = str(uuid.uuid4()), free_port()
    monitor = f"127.0.0.1:{free_port()}"
    conf = folder / "ceph.conf"
    conf.write_text(_conf(folder, cluster, monitor, port))

    def run(*command: str) -> str:
        whole = [command[0], "-c", str(conf), *command[1:]]
        done = subprocess.run(whole, check=True, capture_output=True, text=True, timeout=60)
        return done.stdout

    def serve(*command: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [command[0], "-c", str(conf), "-f", *command[1:]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        running.callback(process.wait)
        running.callback(process.kill)
        return process

    monmap = str(folder / "monmap")
    (folder / "mon").mkdir()
    (folder / "osd").mkdir()
    run("monmaptool", "--create", "--fsid", cluster, "--addv", "a", f"v1:{monitor}", monmap)
    run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
    wait_for_port(int(monitor.rpartition(":")[2]), serve("ceph-mon", "-i", "a"))
    osd = str(uuid.uuid4())
    run("ceph", "osd", "new", osd)
    run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
    serve("ceph-osd", "-i", "0")
    run("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=h")
    user = ["--uid=test", "--display-name=test", f"--access-key={ACCESS_KEY}", f"--secret={ACCESS_KEY}"]
    json.loads(run("radosgw-admin", "user", "create", *user))
    wait_for_port(port, serve("radosgw", "-n", "client.rgw"))
    return f"http://127.0.0.1:{port}"


def _conf(folder: Path, cluster: str, monitor: str, port: int) -> str:
    return f"""[global]
fsid = {cluster}
mon host = v1:{monitor}
auth cluster required = none
auth service required = none
auth client required = none
osd objectstore = memstore
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
mon warn on pool no redundancy = false
mon allow pool size one = true
osd crush chooseleaf type = 0
mon data = {folder}/mon
osd data = {folder}/osd
run dir = {folder}
admin socket = {folder}/$name.asok
pid file = {folder}/$name.pid
log file = {folder}/$name.log
mon cluster log file = {folder}/cluster.log
public addr = 127.0.0.1
cluster addr = 127.0.0.1
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
"""
