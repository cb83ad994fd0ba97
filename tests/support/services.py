"""Services of one user that lose something and are started again: on one machine, and on AWS in moto."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.conformance.device import Device, converge
from tests.support import aws, servers
from tests.support.cluster import cloud, control


@dataclass
class Service:
    """A server that can be started anew, and its place."""

    start: Callable[[], servers.Server]
    control: Callable[..., subprocess.CompletedProcess[str]]
    lose_heads: Callable[[], None]
    aws: Mapping[str, str]
    """What another server needs to reach the same engine."""


@contextmanager
def local(folder: Path, *users: servers.User, extra: Mapping[str, str] | None = None) -> Iterator[Service]:
    data, others = folder / "data", servers.hashed(list(users)) | (extra or {})

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "app.cli", *words]
        env = servers.environment([], data, 1, others)
        return subprocess.run(
            command, env=env, cwd=servers.REPOSITORY, capture_output=True, text=True, check=False, timeout=120
        )

    def lose() -> None:
        for path in data.rglob("heads.sqlite*"):
            path.unlink()

    yield Service(lambda: servers.start(servers.OURS, data, [], others), run, lose, {})


@contextmanager
def on_aws(folder: Path, *users: servers.User, heads: str) -> Iterator[Service]:
    with aws.moto() as engine, cloud(folder, engine, heads) as place:
        extra = servers.hashed(list(users)) | place.settings

        def lose() -> None:
            if heads == "dynamodb":
                table = place.settings["ANKISYNCD_DYNAMODB_TABLE"]
                aws.dynamodb_client(engine).delete_table(TableName=table)
                assert control(place, folder / "admin", "init").returncode == 0
                return
            s3, bucket = aws.s3_client(engine), place.settings["ANKISYNCD_S3_BUCKET"]
            found = s3.list_objects_v2(Bucket=bucket, Prefix="some/prefix/heads/")["Contents"]
            for one in found:
                s3.delete_object(Bucket=bucket, Key=one["Key"])

        yield Service(
            lambda: servers.start(servers.OURS, folder / "server", [], extra),
            lambda *words: control(place, folder / "admin", *words),
            lose,
            {name: value for name, value in place.settings.items() if name.startswith("AWS_")},
        )


PLACES = {
    "local": local,
    "dynamodb": partial(on_aws, heads="dynamodb"),
    "s3": partial(on_aws, heads="s3"),
}


def worked_with(a: Device, b: Device) -> None:
    """Two devices in sync after some syncs: notes, reviews, deletions, media."""
    for device in (a, b):
        device.modern_scheduler()
    a.add_notes([["one", "1"], ["two", "2"], ["three", "3"]])
    a.first_upload()
    b.first_download()
    for number in range(3):
        b.add_notes([[f"of b {number}", ""]])
        converge(b, a)
    a.remove_notes([row[0] for row in a.rows("select id from notes order by id limit 1")])
    converge(a, b)
    a.write_media("kept.txt", 100, "v1")
    a.write_media("gone.txt", 100, "v1")
    sync_media(a, b)
    b.remove_media("gone.txt")
    sync_media(b, a)


def sync_media(*devices: Device) -> None:
    for device in (*devices, *devices[:-1]):
        device.sync_media()
