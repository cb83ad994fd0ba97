"""`terraform/ctl`: `ankisyncctl` on an operator's own machine, with the settings that Terraform has put out."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.support import servers
from tests.terraform.tasks import environment


@pytest.fixture
def ctl(applied, cloud, tmp_path):
    """The script, on a machine whose `terraform output` is that of the module."""
    machine = tmp_path / "bin"
    machine.mkdir()
    own = environment(applied, cloud, tmp_path, "maintain")
    answer = applied["values"]["outputs"]["admin_environment"]["value"]
    declared = re.search(r"\bCOGNITO_USER_POOL_ID='?([\w-]+)", answer)
    answer = answer.replace(declared[1], cloud.pool_id)  # the engine has made its own
    for name, body in {
        "terraform": f"printf '%s\\n' {shlex.quote(answer)}",
        "ankisyncctl": f'exec {shlex.quote(sys.executable)} -m app.cli "$@"',
        "aws": f'echo "$@" >> {tmp_path}/asked; echo {shlex.quote(cloud.client_secret)}',
    }.items():
        (machine / name).write_text(f"#!/bin/sh\n{body}\n")
        (machine / name).chmod(0o755)
    env = {key: own[key] for key in own if key.startswith("AWS_")}
    env |= {"PATH": f"{machine}:{os.environ['PATH']}", "PYTHONPATH": str(servers.REPOSITORY)}

    def run(*words):
        return subprocess.run(
            [servers.REPOSITORY / "terraform" / "ctl", *words],
            env=env, cwd=servers.REPOSITORY, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    return run


def test_it_prints_the_answer_and_returns_the_exit_code(ctl):
    done = ctl("key", "list")
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0,
        "id\tuser\tkind\tname\tclient\tcreated\tused",
    ), done.stderr
    refused = ctl("history", "list", "a/b")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "there is no user 'a/b'" in refused.stderr
    assert ctl("nonsense").returncode == 2


def test_the_settings_are_those_of_the_service_and_not_of_a_task(ctl, applied, cloud, tmp_path):
    shown = ctl("config", "check").stdout
    assert environment(applied, cloud, tmp_path, "maintain")["ANKISYNCD_S3_BUCKET"] in shown
    assert "/data" not in shown


def test_the_client_secret_is_fetched_only_to_try_a_login(ctl, tmp_path):
    ctl("key", "list")
    assert not (tmp_path / "asked").exists()
    ctl("user", "check", "nobody", "--password-stdin")
    assert "get-secret-value" in (tmp_path / "asked").read_text()
