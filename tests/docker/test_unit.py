"""The unit for systemd."""

from __future__ import annotations

import configparser
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from app.cli import server as cli
from tests.docker.compose import DOCKER
from tests.support import servers

UNIT = DOCKER / "ankisyncd.service"


def service() -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read(UNIT)
    return parser["Service"]


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60)


@pytest.fixture
def unit(tmp_path) -> Path:
    """With a program and a user that every machine has: both have to exist where the unit is looked at."""
    text = re.sub(r"^(User|Group)=.*$", r"\1=daemon", UNIT.read_text(), flags=re.M)
    path = tmp_path / "ankisyncd.service"
    path.write_text(text.replace("/opt/ankisyncd/bin/ankisyncd", "/bin/true"))
    return path


def test_systemd_finds_no_fault(unit):
    done = analyze("verify", str(unit))
    assert (done.returncode, done.stderr) == (0, "")


def test_its_exposure_is_small(unit):
    """systemd's own measure, from 0 to 10; what is left is the network, and memory that libffi makes executable."""
    done = analyze("security", "--offline=yes", "--threshold=20", str(unit))
    assert done.returncode == 0, done.stdout


def test_its_patience_is_above_the_servers():
    assert int(service()["TimeoutStopSec"]) > cli._STOP_S
    assert service()["KillMode"] == "mixed"  # workers are told by the first process


def test_the_server_tells_systemd_when_it_takes_requests(tmp_path):
    assert service()["Type"] == "notify"
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(30)
        settings = {"NOTIFY_SOCKET": str(path), "ANKISYNCD_WORKERS": "1"}
        server = servers.start(servers.OURS, tmp_path / "data", servers.make_users(1), settings)
        try:
            assert b"READY=1" in listener.recv(4096)
        finally:
            server.stop()
