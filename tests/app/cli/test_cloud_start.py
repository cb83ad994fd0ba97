"""The server's look at the cloud before it starts, `ankisyncctl init`, and the commands on cloud stores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.support import aws, servers
from tests.support.cluster import AwsWire, Place, control


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with aws.moto() as endpoint:
        yield endpoint


@pytest.fixture
def place(engine: str) -> Iterator[Place]:
    with AwsWire(int(engine.rpartition(":")[2])) as wire:
        yield Place(engine, wire)


def run_server(place: Place, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    env = servers.environment([], folder, servers.free_port(), place.settings | more)
    command = [sys.executable, "-m", "app.cli.server"]
    return subprocess.run(
        command, env=env, cwd=servers.REPOSITORY, capture_output=True, text=True, check=False, timeout=60
    )


def test_everything_that_is_missing_is_said_at_once(place: Place, tmp_path: Path) -> None:
    pool = {"COGNITO_USER_POOL_ID": "eu-central-1_missing", "COGNITO_CLIENT_ID": "none"}
    done = run_server(place, tmp_path, **pool)
    assert done.returncode == 2
    assert f"there is no bucket 'bucket-{place.name}'" in done.stderr
    assert f"there is no table 'table-{place.name}'" in done.stderr
    assert "the user pool 'eu-central-1_missing' cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_table_that_cannot_be_reached_is_a_fault_and_not_a_hang(place: Place, tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{servers.free_port()}"
    done = run_server(place, tmp_path, AWS_ENDPOINT_URL=nowhere)
    assert done.returncode == 2
    assert "cannot be used" in done.stderr


@pytest.mark.parametrize("heads", ["dynamodb", pytest.param("s3", marks=pytest.mark.thorough)])
def test_init_sets_no_expiration_on_a_store_that_is_not_aws(place: Place, tmp_path: Path, heads: str) -> None:
    """Where a store drops the prefix of the rule for host keys, the rule is for collections too."""
    place.heads = heads
    assert control(place, tmp_path, "init").returncode == 0
    client = aws.client("s3", place.engine)
    with pytest.raises(ClientError, match="NoSuchLifecycleConfiguration"):
        client.get_bucket_lifecycle_configuration(Bucket=f"bucket-{place.name}")


@pytest.mark.parametrize("heads", ["dynamodb", pytest.param("s3", marks=pytest.mark.thorough)])
def test_init_makes_what_is_missing_and_nothing_twice(place: Place, tmp_path: Path, heads: str) -> None:
    place.heads = heads
    made = control(place, tmp_path, "init")
    assert (made.returncode, len(made.stdout.splitlines())) == (0, 2 if heads == "dynamodb" else 1)
    again = control(place, tmp_path, "init")
    assert (again.returncode, again.stdout) == (0, "everything was there\n")
    for command in (["status"], ["doctor"], ["maintain"], ["key", "list"], ["user", "list"]):
        done = control(place, tmp_path, *command)
        assert done.returncode == 0, done.stderr


@pytest.mark.thorough
def test_the_table_is_as_terraform_makes_it(place: Place, tmp_path: Path) -> None:
    assert control(place, tmp_path, "init").returncode == 0
    client = aws.dynamodb_client(place.engine)
    table = client.describe_table(TableName=f"table-{place.name}")["Table"]
    assert [(key["AttributeName"], key["KeyType"]) for key in table["KeySchema"]] == [("pk", "HASH")]
    (index,) = table["GlobalSecondaryIndexes"]
    assert (index["IndexName"], index["Projection"]["ProjectionType"]) == ("listing", "KEYS_ONLY")
    ends = client.describe_time_to_live(TableName=f"table-{place.name}")["TimeToLiveDescription"]
    assert (ends["TimeToLiveStatus"], ends["AttributeName"]) == ("ENABLED", "expires")


def test_a_user_list_is_refused_where_there_is_no_place_for_it(place: Place, tmp_path: Path) -> None:
    assert control(place, tmp_path, "init").returncode == 0
    place.extra = {"SYNC_USER1": "joe:secret"}
    assert "joe" in control(place, tmp_path, "user", "list").stdout
    refused = control(place, tmp_path, "user", "remove", "joe", "--yes")
    assert refused.returncode == 1
    assert "SYNC_USERn" in refused.stderr


def test_a_pool_that_is_away_is_said_and_the_server_starts(place: Place, tmp_path: Path) -> None:
    assert control(place, tmp_path, "init").returncode == 0
    place.extra = {
        "COGNITO_USER_POOL_ID": "eu-central-1_Away00000",
        "COGNITO_CLIENT_ID": "none",
        "AWS_ENDPOINT_URL_COGNITO_IDENTITY_PROVIDER": f"http://127.0.0.1:{servers.free_port()}",
    }
    env = servers.environment([], tmp_path, servers.free_port(), place.settings)
    check = [sys.executable, "-m", "app.cli.cloudcheck"]
    done = subprocess.run(
        check, env=env, cwd=servers.REPOSITORY, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "the user pool 'eu-central-1_Away00000' is away" in done.stderr
