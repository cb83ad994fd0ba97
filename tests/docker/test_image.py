"""The image as it is shipped: built, started read-only and as nobody in particular, used, stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.conformance.device import NEWEST, Device, Pool, assert_same
from tests.docker.image import UID, Container, build, need
from tests.support.proxy import Exchange, Fault, Proxy
from tests.support.servers import User, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ANN = User("ann", "correct horse")


@pytest.fixture(scope="module")
def image() -> None:
    need()
    build()


@pytest.fixture
def container(image, tmp_path) -> Iterator[Container]:
    settings = {"SYNC_USER1": f"{ANN.name}:{ANN.password}", "ANKISYNCD_LOG_FORMAT": "json"}
    container = Container.make(tmp_path, free_port(), **settings)
    try:
        container.start()
        yield container
    finally:
        container.end()


@pytest.fixture
def make_device(tmp_path) -> Iterator[Callable[[str], Device]]:
    pool, devices = Pool(tmp_path), []

    def make(url: str) -> Device:
        device = Device(pool, NEWEST, tmp_path / f"device{len(devices)}")
        devices.append(device)
        device.log_in(url, ANN)
        return device

    yield make
    for device in devices:
        device.end()
    pool.end()


def test_it_runs_as_nobody_on_a_disk_it_cannot_write(container):
    assert container.config["User"] == f"{UID}:{UID}"
    assert container.execute("id", "-u").stdout.strip() == str(UID)
    for path in ("/x", "/opt/ankisyncd/x", "/usr/x", "/etc/x"):
        assert "Read-only" in container.execute("touch", path).stderr
    assert container.execute("touch", "/data/x", "/tmp/x").returncode == 0


def test_its_health_check_says_so_while_it_runs_and_not_after(container):
    _, *check = container.config["Healthcheck"]["Test"]
    assert container.execute(*check).returncode == 0
    wrong = [word.replace("/health", "/nothing") for word in check]
    assert container.execute(*wrong).returncode != 0


def test_the_admin_command_is_in_it(container):
    assert container.execute("ankisyncctl", "--help").returncode == 0


def test_a_compiler_is_not(container):
    assert container.execute("gcc", "--version").returncode != 0


def test_devices_sync_and_its_log_is_lines_of_json(container, make_device):
    url = f"http://127.0.0.1:{container.port}/"
    a, b = make_device(url), make_device(url)
    a.add_notes([["one", "1"]])
    a.first_upload()
    b.first_download()
    assert_same(a, b)
    lines = [line for line in container.log.read_text().splitlines() if line.startswith("{")]
    assert {"upload", "download", "hostKey"} <= {json.loads(line).get("method") for line in lines}
    assert container.stop() == 0


@pytest.mark.parametrize("step", ["applyChanges", "applyChunk", "sanityCheck2", "finish"])
def test_sigterm_in_the_middle_of_a_sync_loses_nothing(container, make_device, step):
    """The next container takes the sync up where the last one left it; the client notices nothing."""
    codes = []

    def fate(exchange: Exchange) -> Fault:
        if exchange.method == step and armed and not codes:
            codes.append(container.stop())
            container.start()
        return Fault.NONE

    armed = False
    with Proxy([container.port], fate=fate) as proxy:
        a, b = make_device(proxy.url), make_device(proxy.url)
        a.add_notes([["one", "1"]])
        a.first_upload()
        b.first_download()
        a.add_notes([[f"note {number}", "back"] for number in range(400)])
        armed = True
        a.settle()
        assert codes == [0]
        b.settle()
    assert_same(a, b)
    assert len(b.rows("select id from notes")) == 401
