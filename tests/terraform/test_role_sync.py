"""Whole servers with the task's environment and the task's rights, on what the plan declares."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator

import pytest

from tests.conformance.device import ClientError, assert_same
from tests.support import aws, servers
from tests.support.servers import Server
from tests.terraform.cloud import Cloud, make
from tests.terraform.tasks import ALICE, Control, container, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def cloud(applied) -> Iterator[Cloud]:
    """One of its own: maintenance looks at every head, and the contracts leave some without objects."""
    with aws.moto() as endpoint:
        yield make(applied, endpoint)


@pytest.fixture
def start(applied, cloud, tmp_path) -> Iterator[Callable[[str], Server]]:
    """Starts tasks; each has an empty disk."""
    running = []

    def start(name: str) -> Server:
        folder = tmp_path / name
        running.append(servers.start(servers.OURS, folder, [], environment(applied, cloud, folder)))
        return running[-1]

    yield start
    for server in running:
        assert server.stop() == 0


def test_devices_sync_over_two_tasks_and_maintenance_works(start, make_device, applied, cloud, tmp_path):
    first, second = start("first"), start("second")
    a, b = make_device(first.url), make_device(second.url)
    a.add_notes([["one", "1"], ["two", "2"]])
    a.first_upload()
    b.first_download()
    for number in range(3):
        b.add_notes([[f"note {number}", "back"]])
        b.settle()
        a.settle()
    a.sync_media()
    assert_same(a, b)
    assert container(applied, "maintain")["command"] == ["ankisyncctl", "maintain"]
    control = Control(applied, cloud, tmp_path / "maintain")
    assert "databases," in control("maintain")
    log = first.log + second.log
    assert '"status":503' not in log
    assert "AccessDenied" not in log


def test_an_earlier_version_is_brought_back_with_the_tasks_rights(
    start, make_device, applied, cloud, tmp_path
):
    server = start("server")
    device = make_device(server.url)
    device.add_notes([["kept", ""]])
    device.upload()
    device.write_media("kept.txt", 100, "v1")
    device.sync_media()
    control = Control(applied, cloud, tmp_path / "maintain")
    (user,) = {row["id"] for row in json.loads(control("status", "--json"))}
    versions = {
        kind: json.loads(control("history", "list", user, kind, "--json"))[-1]["version"]
        for kind in ("collection", "media")
    }
    device.add_notes([["mistaken", ""]])
    device.settle()
    device.remove_media("kept.txt")
    device.sync_media()
    control("history", "export", user, str(versions["collection"]), str(tmp_path / "old.anki2"))
    for kind, version in versions.items():
        control("history", "restore", user, str(version), kind, "--yes")
    device.first_download()
    device.sync_media()
    assert device.rows("select sfld from notes") == [["kept"]]
    assert [found[0] for found in device.media()] == ["kept.txt"]
    assert "AccessDenied" not in server.log


def test_devices_are_listed_and_logged_out_with_the_tasks_rights(
    start, make_device, applied, cloud, tmp_path
):
    server = start("server")
    a, b = make_device(server.url), make_device(server.url)
    control = Control(applied, cloud, tmp_path / "maintain")
    everybody = json.loads(control("key", "list", "--json"))
    (user,) = {row["user"] for row in everybody}
    newest = json.loads(control("key", "list", user, "--json"))[-2:]
    assert newest == everybody[-2:]
    assert all(row["client"] and row["created_ms"] for row in newest)
    assert "Revoked the key" in control("key", "revoke", newest[0]["id"])
    other = start("other")  # the first one remembers keys for a while
    a.endpoint(other.url)
    with pytest.raises(ClientError, match=r"(?i)auth|password|logged"):
        a.sync()
    b.endpoint(other.url)
    assert b.sync() in {"no changes", "full", "download", "upload"}
    assert f"Revoked {len(everybody) - 1} keys of {user}" in control("key", "revoke", "--user", user)
    assert json.loads(control("key", "list", "--json")) == []
    third = start("third")
    b.endpoint(third.url)
    with pytest.raises(ClientError, match=r"(?i)auth|password|logged"):
        b.sync()
    a.log_in(third.url, ALICE)
    a.sync()


def test_the_command_for_administrators_is_one_that_a_shell_and_ecs_understand(applied, tmp_path):
    words = shlex.split(applied["values"]["outputs"]["admin_command"]["value"])
    assert words[:3] == ["aws", "ecs", "run-task"]
    given = dict(zip(words[3::2], words[4::2], strict=True))
    network = json.loads(given["--network-configuration"])["awsvpcConfiguration"]
    assert network["subnets"] and network["securityGroups"]
    (override,) = json.loads(given["--overrides"])["containerOverrides"]
    assert override["name"] == container(applied, "maintain")["name"]
    assert override["command"] == ["ankisyncctl", "status"]


def test_a_server_without_rights_says_so_at_its_start(applied, cloud, tmp_path):
    env = environment(applied, cloud, tmp_path / "denied") | {"AWS_SECRET_ACCESS_KEY": "wrong" * 8}
    with pytest.raises(AssertionError, match="did not start"):
        servers.start(servers.OURS, tmp_path / "denied", [], env)
