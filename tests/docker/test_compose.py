"""Dockerfile, compose files and `up`, as far as they can be judged without an engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from app.config import Settings

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
TOOLS = ROOT / ".venv-infra" / "bin"
COMPOSE = {
    "compose.yaml": ["compose.yaml"],
    "compose.s3.yaml": ["compose.yaml", "compose.s3.yaml"],
    "compose.emulators.yaml": ["compose.emulators.yaml"],
}
GIVEN = {"ANKISYNCD_DOMAIN": "sync.example.com", "STORE_SECRET": "x" * 24, "SYNC_USER1": "ann:secret"}
SERVICE_WORDS = {
    "image", "build", "command", "restart", "read_only", "cap_drop", "cap_add", "security_opt", "networks",
    "environment", "volumes", "tmpfs", "ports", "depends_on", "healthcheck", "stop_grace_period",
}  # fmt: skip


def tool(name: str) -> str:
    found = TOOLS / name
    if not found.exists():
        pytest.skip(f"{name} is not here; `make test-infra` brings it")
    return str(found)


def filled(text: str) -> str:
    """Variables as compose fills them in; the ones that must be given are."""

    def value(found: re.Match[str]) -> str:
        name, operator, rest = found[1], found[2], found[3]
        if name in GIVEN:
            return GIVEN[name]
        assert operator == ":-", f"{name} has neither a default nor a hint"
        return rest

    return re.sub(r"\$\{(\w+)(:-|:\?)([^}]*)\}", value, text)


def compose(name: str) -> dict:
    """Services, networks and volumes of a compose file, over those that it stands beside."""
    merged: dict = {"services": {}, "networks": {}, "volumes": {}}
    for file in COMPOSE[name]:
        document = yaml.safe_load(filled((DOCKER / file).read_text()))
        assert set(document) <= {"name", "services", "networks", "volumes"}
        for kind in ("networks", "volumes"):
            merged[kind] |= document.get(kind, {})
        for service, body in document["services"].items():
            known = merged["services"].setdefault(service, {})
            for word, found in body.items():
                known[word] = known[word] | found if isinstance(known.get(word), dict) else found
    return merged


@pytest.mark.parametrize("name", COMPOSE)
def test_a_compose_file_hangs_together(name):
    document = compose(name)
    services = document["services"]
    for service, body in services.items():
        assert set(body) <= SERVICE_WORDS, service
        assert "image" in body, service
        assert set(body.get("depends_on", {})) <= set(services)
        for other, condition in body.get("depends_on", {}).items():
            waits = condition["condition"]
            assert waits in {"service_started", "service_healthy", "service_completed_successfully"}
            if waits == "service_healthy" and other != "server":  # the server's is in its image
                assert "healthcheck" in services[other], other
        assert set(body.get("networks", [])) <= set(document["networks"])
        named = {volume.split(":")[0] for volume in body.get("volumes", []) if volume[0] not in "./"}
        assert named <= set(document["volumes"])


@pytest.mark.parametrize("name", COMPOSE)
def test_the_server_takes_the_settings_it_is_given(name):
    environment = {
        key: str(value) for key, value in compose(name)["services"]["server"]["environment"].items()
    }
    settings = Settings.from_env(environment)
    assert (settings.cloud is None) == (name == "compose.yaml")


@pytest.mark.parametrize("name", ["compose.yaml", "compose.s3.yaml"])
def test_the_server_has_no_right_it_does_not_need(name):
    server = compose(name)["services"]["server"]
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert server["security_opt"] == ["no-new-privileges:true"]
    assert "ports" not in server, "only the proxy is reached from outside"
    assert server["networks"] == ["inside"] or name != "compose.yaml"


def test_images_have_versions():
    for name in COMPOSE:
        for service, body in compose(name)["services"].items():
            _, _, tag = body["image"].rpartition(":")
            assert tag not in {"", "latest", body["image"]}, service


def test_the_dockerfile_has_no_fault_that_hadolint_knows():
    command = [tool("hadolint"), str(DOCKER / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_scripts_have_no_fault_that_shellcheck_knows():
    command = [tool("shellcheck"), str(DOCKER / "up")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def up(tmp_path):
    """Runs a copy of `up`, with a `docker` that notes what it is asked and what it reads."""
    folder, programs = tmp_path / "docker", tmp_path / "programs"
    shutil.copytree(DOCKER, folder, ignore=shutil.ignore_patterns(".env*", "tls"))
    programs.mkdir()
    docker = programs / "docker"
    docker.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncase "$*" in *exec*) cat >> {tmp_path}/read ;; esac\n'
    )
    docker.chmod(0o755)

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "asked").write_text("")
        found = {"PATH": f"{programs}:{os.environ['PATH']}", **environment}
        return subprocess.run(
            [folder / "up", *words],
            env=found,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
        )

    run.folder, run.asked, run.read = folder, (tmp_path / "asked").read_text, tmp_path / "read"
    return run


def settled(up) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)='(.*)'$", (up.folder / ".env").read_text(), re.M))


def test_up_starts_everything_and_makes_the_first_user(up):
    done = up("--user", "ann", "sync.example.com", ANKISYNCD_PASSWORD="correct horse")
    assert done.returncode == 0, done.stderr
    assert "https://sync.example.com/" in done.stdout
    assert "-f compose.yaml up --detach --build --wait" in up.asked()
    assert "exec -T server ankisyncctl user add --password-stdin ann" in up.asked()
    assert up.read.read_text() == "correct horse\n"
    assert "correct horse" not in up.asked() + (up.folder / ".env").read_text()
    assert (up.folder / ".env").stat().st_mode & 0o077 == 0
    assert settled(up)["TLS_MODE"] == "automatic"


def test_a_second_up_needs_no_words_and_changes_nothing_settled(up):
    up("--self-signed", "--user", "ann", "sync.example.com", ANKISYNCD_PASSWORD="correct horse")
    before = settled(up)
    done = up()
    assert done.returncode == 0, done.stderr
    assert settled(up) == before
    assert before["TLS_MODE"] == "internal"
    assert "user add" not in up.asked()
    assert "cp tls:" in up.asked()


def test_up_takes_a_certificate_that_is_given(up, tmp_path):
    for name in ("fullchain.pem", "privkey.pem"):
        (tmp_path / name).write_text(name)
    given = ["--given", str(tmp_path / "fullchain.pem"), str(tmp_path / "privkey.pem")]
    done = up(*given, "--user", "ann", "sync.example.com", ANKISYNCD_PASSWORD="x")
    assert done.returncode == 0, done.stderr
    assert (up.folder / "tls/cert.pem").read_text() == "fullchain.pem"
    assert (up.folder / "tls/key.pem").stat().st_mode & 0o077 == 0
    assert settled(up)["TLS_MODE"] == "given"


def test_up_with_a_store_beside_the_server(up):
    done = up("--s3", "--user", "ann", "sync.example.com", ANKISYNCD_PASSWORD="correct horse")
    assert done.returncode == 0, done.stderr
    assert "-f compose.yaml -f compose.s3.yaml up" in up.asked()
    assert settled(up)["SYNC_USER1"] == "ann:correct horse"
    assert len(settled(up)["STORE_SECRET"]) == 48
    assert settled(up) == (up(), settled(up))[1]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["https://sync.example.com/"], "no host name"),
        (["Sync.example.com"], "no host name"),
        (["a.example.com", "b.example.com"], "one domain"),
        (["--user", "a b", "sync.example.com"], "characters"),
        (["--given", "/nothing", "/nowhere", "--user", "ann", "sync.example.com"], "cannot be read"),
        (["--given", "/nothing"], "two files"),
        (["--user", "ann"], "Host name of the server is missing"),
        (["sync.example.com"], "Name of the first user is missing"),
        (["--user", "ann", "sync.example.com"], "ANKISYNCD_PASSWORD is missing"),
        (["--nonsense"], "no option"),
    ],
)
def test_up_refuses_what_it_cannot_work_with(up, words, complaint):
    done = up(*words)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert " up --detach" not in up.asked()
    assert not (up.folder / ".env").exists()
