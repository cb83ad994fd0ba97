"""The head records are lost; the objects bring them back, and real clients go on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conformance.device import Device, assert_same, converge, made_devices
from tests.support import aws, servers
from tests.support.cluster import cloud, control


@dataclass
class Service:
    """A server that can be started anew, and its place."""

    start: Callable[[], servers.Server]
    control: Callable[..., subprocess.CompletedProcess[str]]
    lose_heads: Callable[[], None]


@contextmanager
def local(folder: Path, user: servers.User) -> Iterator[Service]:
    data, others = folder / "data", servers.hashed([user])

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "app.cli", *words]
        env = servers.environment([], data, 1, others)
        return subprocess.run(
            command, env=env, cwd=servers.REPOSITORY, capture_output=True, text=True, check=False, timeout=120
        )

    def lose() -> None:
        for path in data.rglob("heads.sqlite*"):
            path.unlink()

    yield Service(lambda: servers.start(servers.OURS, data, [], others), run, lose)


@contextmanager
def on_aws(folder: Path, user: servers.User, heads: str) -> Iterator[Service]:
    with aws.moto() as engine, cloud(folder, engine, heads) as place:
        extra = servers.hashed([user]) | place.settings

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
        )


PLACES = {
    "local": local,
    "dynamodb": lambda folder, user: on_aws(folder, user, "dynamodb"),
    "s3": lambda folder, user: on_aws(folder, user, "s3"),
}


@pytest.mark.parametrize("place", PLACES)
def test_clients_go_on_with_ordinary_syncs(tmp_path: Path, place: str) -> None:
    user = servers.User("ann", "secret")
    with PLACES[place](tmp_path, user) as service, made_devices(tmp_path, user) as make:
        server = service.start()
        try:
            a, b = make(server.url), make(server.url)
            worked_with(a, b)
            a.add_notes([["not sent yet", "by a"]])
            b.write_media("not-sent.txt", 100, "v1")
        finally:
            assert server.stop() == 0
        service.lose_heads()
        assert "head record is lost" in service.control("doctor").stdout
        done = service.control("rebuild-heads")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "2 head records were made anew" in done.stderr
        server = service.start()
        try:
            for device in (a, b):
                device.log_in(server.url, user)
            converge(a, b)
            assert_same(a, b)
            assert b.rows("select count() from notes where flds like 'not sent yet%'") == [[1]]
            sync_media(a, b)
            assert a.media() == b.media()
            assert {found[0] for found in a.media()} == {"kept.txt", "not-sent.txt"}
            assert a.check()[1]
            told = service.control("doctor", "--read-media")
            assert told.returncode == 0, told.stdout + told.stderr
        finally:
            assert server.stop() == 0


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
