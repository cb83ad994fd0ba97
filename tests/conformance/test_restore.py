"""An earlier version is brought back beside real devices: what they are asked, and what they get."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import Make
from tests.conformance.device import NEWEST, ClientError, Device, assert_same, converge
from tests.support import servers
from tests.support.cluster import Cluster
from tests.support.proxy import Exchange, Fault, Proxy
from tests.support.servers import Server, User

NEWEST_ONLY = pytest.mark.parametrize("versions", [(NEWEST, NEWEST)], ids=["newest"])


class Admin:
    """`ankisyncctl` beside the running server, with its settings."""

    def __init__(self, server: Server | Cluster) -> None:
        if isinstance(server, Cluster):
            extra = servers.hashed(server.users) | server.place.settings
            self.env = servers.environment([], server.folder / "admin", 1, extra)
        else:
            self.env = servers.environment(server.users, server.folder, server.port, {})

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", *words],
            env=self.env,
            cwd=servers.REPOSITORY,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *words: str) -> list[dict[str, Any]]:
        return list(json.loads(self.run(*words, "--json")))

    def versions(self, user: User, kind: str = "collection") -> list[dict[str, Any]]:
        return self.json("history", "list", user.name, kind)

    def current(self, user: User, kind: str = "collection") -> int:
        return int(self.versions(user, kind)[-1]["version"])

    def restore(self, user: User, version: int, *words: str) -> str:
        return self.run("history", "restore", user.name, str(version), *words, "--yes")


@pytest.fixture
def admin(server: Server | Cluster) -> Admin:
    return Admin(server)


def test_after_a_restore_devices_download_the_old_content(
    pair: tuple[Device, Device], admin: Admin, user: User
) -> None:
    a, b = pair
    before, expected = admin.current(user), a.state()
    a.add_notes([["a mistake", "of a"]])
    a.remove_notes([row[0] for row in a.rows("select id from notes order by id limit 1")])
    converge(a, b)
    b.add_notes([["not yet sent", "by b"]])
    admin.restore(user, before)
    for device in pair:
        assert device.sync() == "full"
        device.download()
        assert device.state()["notes"] == expected["notes"]
        assert device.state()["revlog"] == expected["revlog"]
    assert_same(a, b)
    b.add_notes([["and on it goes", ""]])
    converge(b, a)
    assert_same(a, b)


@pytest.mark.thorough
def test_the_version_before_a_mistaken_upload_comes_back(
    pair: tuple[Device, Device], make_device: Make, admin: Admin, user: User
) -> None:
    a, b = pair
    before, expected = admin.current(user), b.state()
    empty = make_device(user)
    empty.modern_scheduler()
    empty.add_notes([["all that is left", ""]])
    assert empty.sync() == "full"
    empty.upload()
    mistaken, left = admin.current(user), empty.state()
    admin.restore(user, before)
    b.first_download()
    assert b.state()["notes"] == expected["notes"]
    empty.first_download()
    assert_same(b, empty)
    # and what was replaced is not lost either
    admin.restore(user, mistaken)
    a.first_download()
    assert a.state()["notes"] == left["notes"]


def test_a_device_may_upload_instead(pair: tuple[Device, Device], admin: Admin, user: User) -> None:
    a, b = pair
    before = admin.current(user)
    a.add_notes([["kept after all", ""]])
    converge(a, b)
    admin.restore(user, before)
    assert a.sync() == "full"
    a.upload()
    b.first_download()
    assert_same(a, b)
    assert b.rows("select count() from notes where flds like 'kept after all%'") == [[1]]
    converge(a, b)


@NEWEST_ONLY
@pytest.mark.parametrize(
    "step",
    [
        pytest.param(step, marks=() if step == "finish" else pytest.mark.thorough)
        for step in ("applyChanges", "applyChunk", "sanityCheck2", "finish")
    ],
)
def test_a_sync_that_runs_meanwhile_loses_cleanly(
    pair: tuple[Device, Device], server: Server, admin: Admin, user: User, step: str
) -> None:
    a, b = pair
    a.add_notes([["the second version", ""]])
    converge(a, b)
    before = int(admin.versions(user)[-3]["version"])
    a.add_notes([["too late", ""]])
    restored: list[str] = []

    def fate(exchange: Exchange) -> Fault:
        if exchange.method == step and not restored:
            restored.append(admin.restore(user, before))
        return Fault.NONE

    with Proxy([server.port], fate=fate) as proxy:
        a.endpoint(proxy.url)
        with pytest.raises(ClientError):
            a.sync()
        assert restored
        statuses = [exchange.status for exchange in proxy.exchanges if exchange.method == step]
        assert statuses[0] == 409
    a.endpoint(server.url)
    for device in pair:
        assert device.sync() == "full"
        device.download()
    assert_same(a, b)
    assert a.rows("select count() from notes where flds like 'too late%'") == [[0]]


@pytest.mark.thorough
def test_media_that_was_deleted_or_replaced_comes_back_by_itself(
    pair: tuple[Device, Device], admin: Admin, user: User
) -> None:
    a, b = pair
    for name in ("kept.txt", "gone.txt", "replaced.txt"):
        a.write_media(name, 100, f"v1 of {name}")
    sync_media(a, b)
    before, expected = admin.current(user, "media"), a.media()
    a.remove_media("gone.txt")
    a.write_media("replaced.txt", 300, "v2")
    a.touch_file("replaced.txt")
    sync_media(a, b)
    b.write_media("later.txt", 50, "v1")
    sync_media(b, a)
    after = a.media()
    assert "2 media files are back" in admin.restore(user, before, "media")
    sync_media(a, b)
    assert [found for found in a.media() if found[0] != "later.txt"] == expected
    assert "later.txt" in {found[0] for found in a.media()}
    assert a.media() == b.media()
    # exactly as it was, and then back again
    changed = int(admin.versions(user, "media")[-2]["version"])
    admin.restore(user, before, "media", "--exact")
    sync_media(a, b)
    assert a.media() == b.media() == expected
    admin.restore(user, changed, "media", "--exact")
    sync_media(a, b)
    assert a.media() == b.media() == after


@NEWEST_ONLY
@pytest.mark.parametrize("name", ["old.anki2", pytest.param("old.colpkg", marks=pytest.mark.thorough)])
def test_an_export_opens_in_anki(
    pair: tuple[Device, Device], admin: Admin, user: User, tmp_path: Path, name: str
) -> None:
    a, b = pair
    before, expected = admin.current(user), a.state()
    a.add_notes([["later", ""]])
    converge(a, b)
    now = admin.current(user)
    file = tmp_path / name
    admin.run("history", "export", user.name, str(before), str(file))
    assert admin.current(user) == now
    if name.endswith(".anki2"):
        b.open(str(file))
    else:
        b.import_package(str(file))
    assert b.state() == expected
    assert b.check()[1]


def sync_media(*devices: Device) -> None:
    for device in (*devices, *devices[:-1]):
        device.sync_media()
