"""The containers that a state declares, as processes of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support import servers
from tests.support.servers import User
from tests.terraform.cloud import PASSWORD, Cloud
from tests.terraform.plans import resources

ALICE = User("alice", PASSWORD)
OF_THE_MACHINE = {"ANKISYNCD_HOST", "ANKISYNCD_PORT", "HOME", "TMPDIR"}


def container(applied: dict, family: str) -> dict:
    (found,) = [
        resource["values"]
        for resource in resources(applied)
        if resource["type"] == "aws_ecs_task_definition" and resource["name"] == family
    ]
    (container,) = json.loads(found["container_definitions"])
    return container


def environment(applied: dict, cloud: Cloud, folder: Path, family: str = "server") -> dict[str, str]:
    """What the task gets; the engine's address and ids, and this machine's folders, take the place of AWS's."""
    keys = cloud.role if family == "server" else cloud.maintain
    declared = {pair["name"]: pair["value"] for pair in container(applied, family)["environment"]}
    assert declared["ANKISYNCD_S3_BUCKET"] == cloud.bucket
    assert declared["ANKISYNCD_DYNAMODB_TABLE"] == cloud.table
    secrets = [secret["name"] for secret in container(applied, family)["secrets"]]
    assert secrets == ["COGNITO_CLIENT_SECRET"]
    declared = {name: value for name, value in declared.items() if name not in OF_THE_MACHINE}
    return declared | {
        "ANKISYNCD_DATA_ROOT": str(folder),
        "ANKISYNCD_CACHE_DIR": str(folder / "cache"),
        "COGNITO_REGION": cloud.pool_id.partition("_")[0],
        "COGNITO_USER_POOL_ID": cloud.pool_id,
        "COGNITO_CLIENT_ID": cloud.client_id,
        "COGNITO_CLIENT_SECRET": cloud.client_secret,
        "AWS_ENDPOINT_URL": cloud.endpoint,
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_SESSION_TOKEN": keys.token,
    }


class Control:
    """`ankisyncctl` in the maintenance task's place: its environment, its rights."""

    def __init__(self, applied: dict, cloud: Cloud, folder: Path) -> None:
        self.env = servers.environment([], folder, 1, environment(applied, cloud, folder, "maintain"))

    def __call__(self, *words: str) -> str:
        return self._run(*words).stdout

    def told(self, *words: str) -> str:
        """What it says beside its answer."""
        return self._run(*words).stderr

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", *words],
            env=self.env, cwd=servers.REPOSITORY, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done
