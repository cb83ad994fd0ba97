"""terraform/README.md, "When a region is gone": the standby upon copies of bucket and table, in moto."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.conformance.device import assert_same
from tests.support import aws, servers
from tests.terraform.cloud import Cloud, Keys, applied_again, by_name, client, enforce, make
from tests.terraform.tasks import Control, container, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SECOND = "eu-west-1"


@pytest.fixture
def cloud(states) -> Iterator[Cloud]:
    with aws.moto() as endpoint:
        yield make(states["second-region"], endpoint)


class Copies:
    """What S3 replication and the global table do; each when it is told to."""

    def __init__(self, cloud: Cloud, state: dict, bucket: str) -> None:
        self._cloud, self._table, self._bucket = (
            cloud,
            by_name(state)[("aws_dynamodb_table", "heads")],
            bucket,
        )

    def make(self) -> None:
        enforce(self._cloud.endpoint, after=10)
        client("s3", self._cloud.endpoint, Keys(), region=SECOND).create_bucket(
            Bucket=self._bucket, CreateBucketConfiguration={"LocationConstraint": SECOND}
        )
        first = client("dynamodb", self._cloud.endpoint, Keys()).describe_table(TableName=self._cloud.table)
        names = ("TableName", "KeySchema", "AttributeDefinitions")
        indexes = [
            {name: index[name] for name in ("IndexName", "KeySchema", "Projection")}
            for index in first["Table"]["GlobalSecondaryIndexes"]
        ]
        client("dynamodb", self._cloud.endpoint, Keys(), region=SECOND).create_table(
            **{name: first["Table"][name] for name in names},
            BillingMode="PAY_PER_REQUEST",
            GlobalSecondaryIndexes=indexes,
        )
        enforce(self._cloud.endpoint)

    def copy_bucket(self) -> None:
        enforce(self._cloud.endpoint, after=1_000)
        s3 = client("s3", self._cloud.endpoint, Keys())
        for found in s3.list_objects_v2(Bucket=self._cloud.bucket)["Contents"]:
            source = {"Bucket": self._cloud.bucket, "Key": found["Key"]}
            s3.copy_object(Bucket=self._bucket, Key=found["Key"], CopySource=source)
        enforce(self._cloud.endpoint)

    def copy_table(self) -> None:
        enforce(self._cloud.endpoint, after=1_000)
        second = client("dynamodb", self._cloud.endpoint, Keys(), region=SECOND)
        items = client("dynamodb", self._cloud.endpoint, Keys()).scan(TableName=self._cloud.table)["Items"]
        for item in items:
            second.put_item(TableName=self._cloud.table, Item=item)
        enforce(self._cloud.endpoint)


def test_the_standby_goes_on_where_the_first_region_ended(states, cloud, make_device, tmp_path):
    first, standby = states["second-region"], states["standby"]
    declared = {pair["name"]: pair["value"] for pair in container(standby, "server")["environment"]}
    assert declared["AWS_REGION"] == SECOND
    copies = Copies(cloud, first, declared["ANKISYNCD_S3_BUCKET"])
    copies.make()
    server = servers.start(servers.OURS, tmp_path / "a", [], environment(first, cloud, tmp_path / "a"))
    device = make_device(server.url)
    device.add_notes([["arrived", ""]])
    device.upload()
    device.write_media("picture.txt", 100, "v1")
    device.sync_media()
    copies.copy_bucket()
    device.add_notes([["under way", ""]])  # its head arrives, its object does not
    device.settle()
    copies.copy_table()
    assert server.stop() == 0

    there = applied_again(cloud, standby, cloud.table, declared["ANKISYNCD_S3_BUCKET"])
    server = servers.start(servers.OURS, tmp_path / "b", [], environment(standby, there, tmp_path / "b"))
    try:
        control = Control(standby, there, tmp_path / "maintain")
        (user,) = {row["id"] for row in json.loads(control("status", "--json"))}
        with pytest.raises(AssertionError, match=user):
            control("doctor")
        before = json.loads(control("history", "list", user, "--json"))[-2]
        control("history", "restore", user, str(before["version"]), "--yes")
        fresh = make_device(server.url)
        fresh.first_download()
        assert fresh.rows("select sfld from notes") == [["arrived"]]
        fresh.sync_media()
        assert [found[0] for found in fresh.media()] == ["picture.txt"]
        # The key of the first region's device works on, and what was under way is on that device.
        device.endpoint(server.url)
        assert device.sync() == "full"
        device.upload()
        fresh.download()
        assert_same(device, fresh)
        assert fresh.rows("select sfld from notes order by sfld") == [["arrived"], ["under way"]]
        assert "AccessDenied" not in server.log
    finally:
        assert server.stop() == 0
