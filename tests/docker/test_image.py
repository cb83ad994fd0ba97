"""The image as it is shipped: built, started read-only and as a user without rights, used, stopped."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.version import VERSION
from tests.conformance.device import Device, assert_same, made_devices
from tests.docker.compose import DOCKER
from tests.docker.image import FOREIGN, NATIVE, QEMU, UID, Container, build, emulated_python, need
from tests.support import servers
from tests.support.proxy import Exchange, Fault, Proxy
from tests.support.servers import User, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ANN = User("ann", "correct horse")


@pytest.fixture(scope="module")
def image() -> None:
    need()
    build(NATIVE)


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
    with made_devices(tmp_path, ANN) as make:
        yield make


def test_it_runs_without_rights_on_a_disk_it_cannot_write(container):
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


def test_it_says_which_version_it_is(container):
    labels = container.config["Labels"]
    assert labels["org.opencontainers.image.version"] == VERSION
    assert re.fullmatch(r"unknown|[0-9a-f]{40}(-dirty)?", labels["org.opencontainers.image.revision"])
    assert {"org.opencontainers.image.source", "org.opencontainers.image.licenses"} <= labels.keys()
    assert container.execute("ankisyncd", "--version").stdout.split() == ["ankisyncd", VERSION]


def test_its_data_folder_is_for_the_server_alone(container):
    """As a new volume takes it over from the image."""
    folder = (container.root / "data").stat()
    assert (folder.st_mode & 0o777, folder.st_uid, folder.st_gid) == (0o700, UID, UID)


def test_what_builds_is_not_in_it(container):
    assert container.execute("python3", "-c", "import setuptools").returncode != 0
    assert container.execute("python3", "-m", "pip", "--version").returncode != 0


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


def test_the_data_of_an_old_server_comes_in_through_a_pipe(container, tmp_path):
    """With the words of `docker/import`; the files belong to a user that the server's cannot read."""
    old = servers.start(servers.OFFICIAL, tmp_path / "old", [ANN], {})
    try:
        with made_devices(tmp_path, ANN) as make:
            device = make(old.url)
            device.add_notes([["one", "1"], ["two", "2"]])
            device.first_upload()
    finally:
        old.stop()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(old.folder, ".")
    script = re.search(r"sh -c '(.*?)' import", (DOCKER / "import").read_text(), re.S)
    assert script is not None
    done = container.execute("sh", "-c", script[1], "import", "--user", ANN.name, stdin=archive.getvalue())
    assert done.returncode == 0, done.stderr
    assert "2 notes" in done.stdout
    assert not list(container.data.glob("import.*"))


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


@pytest.fixture(scope="module")
def archive(image, tmp_path_factory) -> Path:
    """For both architectures, as `make image` makes it."""
    out = tmp_path_factory.mktemp("archive") / "image.tar"
    build(NATIVE, FOREIGN, out=out)
    return out


def test_one_archive_holds_the_image_for_both_architectures(archive):
    with tarfile.open(archive) as tar:

        def read(digest: str) -> dict:
            content = tar.extractfile(f"blobs/{digest.replace(':', '/')}").read()
            assert hashlib.sha256(content).hexdigest() == digest.removeprefix("sha256:")
            return json.loads(content)

        index = json.loads(tar.extractfile("index.json").read())
        (entry,) = index["manifests"]
        assert entry["annotations"]["org.opencontainers.image.ref.name"] == VERSION
        images = {
            image["platform"]["architecture"]: read(image["digest"])
            for image in read(entry["digest"])["manifests"]
        }
        assert set(images) == {"amd64", "arm64"}
        for architecture, manifest in images.items():
            config = read(manifest["config"]["digest"])
            assert (config["architecture"], config["os"]) == (architecture, "linux")
            assert config["config"]["Labels"]["org.opencontainers.image.version"] == VERSION
            assert config["config"]["User"] == f"{UID}:{UID}"
            names = {member.name for member in tar}
            assert {f"blobs/{layer['digest'].replace(':', '/')}" for layer in manifest["layers"]} <= names


def test_the_image_of_the_other_architecture_runs(archive):
    """Built here without an emulator, run here with one: the libraries that are not Python can be loaded."""
    need(QEMU)
    code = (
        "import anki._rsbridge, apsw, argon2, cryptography.hazmat.bindings._rust, gevent.libev.corecext, greenlet\n"
        "import msgspec, numpy, platform, sqlite3, ssl, xxhash, zstandard\n"
        "from app.version import VERSION; print(platform.machine(), VERSION)"
    )
    machine = {"arm64": "aarch64", "amd64": "x86_64"}[FOREIGN]
    assert emulated_python(code) == f"{machine} {VERSION}"
