"""The real Docker Compose, which reads our files without an engine: `config` needs none."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.docker.debian import unpacked

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"


def compose() -> str:
    """Compose 2; what a machine has by that name may be the program of ten years ago."""
    return unpacked(
        "docker-compose", "usr/libexec/docker/cli-plugins/docker-compose", "docker-compose", suite="trixie"
    )


def merged(folder: Path, **variables: str) -> dict:
    """What Compose makes of the files in `folder` and its `.env`, and of `variables` of the shell."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
    done = subprocess.run(
        [compose(), "config", "--format", "json"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # it warns of variables that have no value
    return json.loads(done.stdout)


def environment_of(service: dict) -> dict[str, str]:
    """As a container has it; Compose shows a `$` twice."""
    return {name: str(value).replace("$$", "$") for name, value in service.get("environment", {}).items()}
