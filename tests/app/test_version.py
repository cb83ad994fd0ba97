"""Everything that runs says which version it is."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from flask import Flask

from app.cli.admin import cli
from app.cli.server import greeting
from app.config import Settings
from app.http.dispatch import add_health
from app.version import VERSION
from tests.support import servers

ROOT = Path(__file__).parents[2]


def test_the_version_is_that_of_the_package() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


def test_the_server_says_it_and_starts_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app.cli.server", "--version"],
        cwd=servers.REPOSITORY, env={}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"ankisyncd {VERSION}\n")


def test_the_admin_command_says_it_even_with_settings_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANKISYNCD_PORT", "x")
    done = CliRunner().invoke(cli, ["--version"], prog_name="ankisyncctl")
    assert (done.exit_code, done.output) == (0, f"ankisyncctl {VERSION}\n")


def test_the_first_line_of_the_log_says_it() -> None:
    assert greeting(Settings.from_env({})).startswith(f"ankisyncd {VERSION} ")


def test_health_says_it_in_a_header_and_stays_empty() -> None:
    app = Flask("test")
    add_health(app)
    answer = app.test_client().get("/health")
    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["X-Ankisyncd-Version"] == VERSION
