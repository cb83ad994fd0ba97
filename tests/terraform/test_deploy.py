"""The commands of terraform/README.md, "Deploy", word for word, with stand-ins for `aws` and `docker`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from tests.terraform.conftest import MODULE, ROOT
from tests.terraform.plans import managed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
AWS = '#!/bin/sh\necho "aws $*" >> "$CALLS"\necho the-password\n'
DOCKER = """#!/bin/sh
echo "docker $*" >> "$CALLS"
case "$1" in login) read -r word && [ "$word" = the-password ] ;; *) [ -f ../../../docker/Dockerfile ] ;; esac
"""


def test_a_newcomer_who_copies_the_commands_has_a_service(terraform, tmp_path):
    (commands,) = re.findall(
        r"^## Deploy\n.*?^```sh\n(.*?)^```", (MODULE / "README.md").read_text(), re.M | re.S
    )
    shutil.copytree(
        MODULE, tmp_path / "terraform", ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*")
    )
    shutil.copytree(ROOT / "docker", tmp_path / "docker")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("aws", AWS), ("docker", DOCKER)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = terraform.environment | {
        "PATH": f"{programs}:{terraform.environment['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "TF_CLI_ARGS_apply": "-auto-approve",  # a newcomer says yes
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    state = json.loads(terraform("show", "-json", at=str(tmp_path / "terraform/examples/minimal")))
    assert len(managed(state)) > 90
    repository = state["values"]["outputs"]["repository_url"]["value"]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert f"-t {repository}:0.1.0 ../../.." in calls[-1]
    (definition,) = [
        one["values"] for one in managed(state, "aws_ecs_task_definition") if one["name"] == "server"
    ]
    (container,) = json.loads(definition["container_definitions"])
    assert container["image"] == f"{repository}:0.1.0"
