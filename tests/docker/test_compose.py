"""Dockerfile and stacks, read by the real Compose."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.config import Settings
from tests.docker.compose import DOCKER, ROOT, environment_of, merged

TOOLS = ROOT / ".venv-infra" / "bin"
GIVEN = {"ANKISYNCD_DOMAIN": "sync.example.com", "STORE_SECRET": "x" * 24}
STACKS = {
    "server": "compose.yaml",
    "tls": "compose.yaml:compose.tls.yaml",
    "given": "compose.yaml:compose.tls.yaml:compose.given.yaml",
    "port": "compose.yaml:compose.port.yaml",
    "s3": "compose.yaml:compose.tls.yaml:compose.s3.yaml",
    "outside": "compose.yaml:compose.tls.yaml:compose.outside.yaml",
    "emulators": "compose.emulators.yaml",
}
SHIPPED = sorted(STACKS.keys() - {"emulators"})


def tool(name: str) -> str:
    found = TOOLS / name
    if not found.exists():
        pytest.skip(f"{name} is not here; `make test-infra` brings it")
    return str(found)


@pytest.fixture
def stack(tmp_path):
    """A stack as Compose sees it, with the operator's own settings.env beside it."""
    folder = tmp_path / "docker"
    shutil.copytree(
        DOCKER, folder, ignore=shutil.ignore_patterns("*.env.new", ".env", "settings.env", "users.env")
    )

    def read(name: str, *, settings: str = "", users: str = "", **variables: str) -> dict:
        for file, text in (("settings.env", settings), ("users.env", users)):
            if text:
                (folder / file).write_text(text)
        return merged(folder, COMPOSE_FILE=STACKS[name], **GIVEN, **variables)

    read.folder = folder
    return read


def test_every_compose_file_is_in_a_stack():
    named = {file for files in STACKS.values() for file in files.split(":")}
    assert named == {path.name for path in DOCKER.glob("compose*.yaml")} - {"compose.override.yaml"}


@pytest.mark.parametrize("name", sorted(STACKS))
def test_the_server_takes_the_settings_that_a_stack_gives(stack, name):
    settings = Settings.from_env(environment_of(stack(name)["services"]["server"]))
    assert (settings.cloud is not None) == (name in {"s3", "emulators"})


@pytest.mark.parametrize("name", SHIPPED)
def test_settings_and_users_of_the_operator_reach_the_server(stack, name):
    settings = "ANKISYNCD_WORKERS=3\nMAX_SYNC_PAYLOAD_MEGS=500\nSYNC_USER1='ann:pass word$x \\n#'\nSYNC_USER2=bob:b\n"
    found = Settings.from_env(environment_of(stack(name, settings=settings)["services"]["server"]))
    assert (found.workers, found.payload_mib) == (3, 500)
    assert [(user.name, user.password) for user in found.fixed_users] == [
        ("ann", "pass word$x \\n#"), ("bob", "b"),
    ]  # fmt: skip


def test_the_number_of_workers_has_a_default_that_a_small_machine_bears(stack):
    assert environment_of(stack("tls")["services"]["server"])["ANKISYNCD_WORKERS"] == "2"


@pytest.mark.parametrize("name", SHIPPED)
def test_no_container_has_a_right_that_it_does_not_need(stack, name):
    for service, body in stack(name)["services"].items():
        assert body["read_only"] is True, service
        assert body["cap_drop"] == ["ALL"], service
        assert body["security_opt"] == ["no-new-privileges:true"], service
    services = stack(name)["services"]
    assert "cap_add" not in services["server"]
    rights = {"tls": ["NET_BIND_SERVICE"], "given": ["NET_BIND_SERVICE", "DAC_READ_SEARCH"]}
    if "tls" in services:
        assert services["tls"]["cap_add"] == rights.get(name, ["NET_BIND_SERVICE"])


@pytest.mark.parametrize("name", SHIPPED)
def test_every_container_is_bounded_and_so_are_its_logs(stack, name):
    for service, body in stack(name)["services"].items():
        assert int(body["mem_limit"]) >= 512 * 1024 * 1024, service
        assert body["pids_limit"] >= 512, service
        assert body["logging"]["options"] == {"max-size": "10m", "max-file": "5"}, service


def test_the_health_check_is_that_of_the_image(stack):
    found = stack("server")["services"]["server"]["healthcheck"]["test"][1:]
    image = re.search(r"HEALTHCHECK .*?CMD (\[.*?\])$", (DOCKER / "Dockerfile").read_text(), re.M | re.S)
    assert image is not None
    assert found == json.loads(image[1])


def test_limits_are_settings(stack):
    found = stack("tls", MEMORY_LIMIT="512m", CPU_LIMIT="1.5", LOG_SIZE="1m")["services"]["server"]
    assert (found["mem_limit"], float(found["cpus"])) == (str(512 * 1024 * 1024), 1.5)
    assert found["logging"]["options"]["max-size"] == "1m"


@pytest.mark.parametrize("name", SHIPPED)
def test_only_what_devices_ask_is_reached_from_outside(stack, name):
    found = stack(name)
    published = {
        service: [port["published"] for port in body.get("ports", [])]
        for service, body in found["services"].items()
        if body.get("ports")
    }
    proxied = {"tls": ["443", "80"]}
    assert published == ({} if name == "server" else {"server": ["27702"]} if name == "port" else proxied)
    assert found["networks"]["inside"]["internal"] is True


@pytest.mark.parametrize("name", SHIPPED)
def test_the_server_has_a_way_out_where_it_needs_one_and_only_there(stack, name):
    networks = set(stack(name)["services"]["server"]["networks"])
    assert networks == ({"inside", "outside"} if name in {"port", "outside"} else {"inside"})


def test_the_port_of_a_proxy_of_ones_own_is_not_open_to_the_network(stack):
    port = stack("port")["services"]["server"]["ports"][0]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "27702", 27702)


def test_a_folder_of_ones_own_is_written_to_by_its_owner(stack):
    found = stack("tls", DATA="/srv/anki", PUID="1000", PGID="1001")["services"]["server"]
    assert found["user"] == "1000:1001"
    mount = next(volume for volume in found["volumes"] if volume["target"] == "/data")
    assert (mount["type"], mount["source"]) == ("bind", "/srv/anki")


def test_no_stack_runs_a_service_that_ends(stack):
    """`up --wait` counts a container that has ended as one that failed."""
    for name in SHIPPED:
        for service, body in stack(name)["services"].items():
            assert body["restart"] == "unless-stopped", (name, service)


def test_images_that_we_do_not_build_are_pinned_by_digest(stack):
    for name in SHIPPED:
        for service, body in stack(name)["services"].items():
            if service != "server":
                assert re.fullmatch(r"[a-z/]+:[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}", body["image"]), service


def test_the_base_image_is_pinned_by_digest():
    base = re.search(r"^ARG BASE=(\S+)$", (DOCKER / "Dockerfile").read_text(), re.M)
    assert base is not None
    assert re.fullmatch(r"python:3\.13-slim-trixie@sha256:[0-9a-f]{64}", base[1])


def test_the_store_says_when_it_was_last_looked_at():
    """Which store keeps conditional writes changes with its versions: a person has to look, and writes the date."""
    assert re.search(r"Reviewed 20\d\d-\d\d-\d\d", (DOCKER / "compose.s3.yaml").read_text())


def test_the_dockerfile_has_no_fault_that_hadolint_knows():
    command = [tool("hadolint"), str(DOCKER / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["up", "ctl", "import"])
def test_scripts_have_no_fault_that_shellcheck_knows(name):
    command = [tool("shellcheck"), str(DOCKER / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_what_a_machine_writes_beside_the_stacks_is_not_committed():
    written = [".env", ".env.new", "settings.env", "users.env", "users.env.new", "compose.override.yaml", "authority.crt",
               "tls/certificate.pem"]  # fmt: skip
    paths = [str(Path("docker", name)) for name in written]
    done = subprocess.run(
        ["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode == 128:
        pytest.skip("this is no git checkout")
    assert done.stdout.split() == paths
