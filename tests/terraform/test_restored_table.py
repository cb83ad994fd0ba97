"""terraform/README.md, "Restore the table", step by step: Terraform on the stand-in provider, the table in moto."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.conformance.device import ClientError, Device, assert_same, converge
from tests.support import aws, servers
from tests.terraform.cloud import Cloud, Keys, applied_again, client, enforce, make
from tests.terraform.tasks import Control, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
RESTORED = "ankisyncd-heads-restored"
TABLE = "module.ankisyncd.aws_dynamodb_table.heads[0]"


@pytest.fixture
def cloud(applied) -> Iterator[Cloud]:
    with aws.moto() as endpoint:
        yield make(applied, endpoint)


def restore(cloud: Cloud) -> None:
    """Step 2. moto restores the table as it is now, and like AWS without its settings."""
    enforce(cloud.endpoint, after=10)
    dynamodb = client("dynamodb", cloud.endpoint, Keys())
    dynamodb.restore_table_to_point_in_time(SourceTableName=cloud.table, TargetTableName=RESTORED)
    enforce(cloud.endpoint)


def put_in_place(terraform) -> dict:
    """Steps 3 and 4; the state afterwards."""
    folder = terraform.copy_of("examples/minimal")
    main = terraform.folder / folder / "main.tf"
    with_name = main.read_text().replace(
        "  zone_id             =", f'  table_name          = "{RESTORED}"\n  zone_id             ='
    )
    assert RESTORED in with_name
    main.write_text(with_name)
    terraform("state", "rm", TABLE, at=folder)
    terraform("import", *terraform.variables("minimal"), TABLE, RESTORED, at=folder)
    terraform("plan", "-out=plan", *terraform.variables("minimal"), at=folder)
    planned = json.loads(terraform("show", "-json", "plan", at=folder))
    changes = {one["address"]: one["change"]["actions"] for one in planned["resource_changes"]}
    assert changes[TABLE] == ["update"]
    assert not [
        name for name, actions in changes.items() if "delete" in actions and "task_definition" not in name
    ]
    terraform("apply", "plan", at=folder)
    return json.loads(terraform("show", "-json", at=folder))


def goes_on(device: Device, fresh: Device, server: servers.Server) -> None:
    """Step 6, to lose nothing: a device that has synced since then notices nothing."""
    device.endpoint(server.url)
    device.add_notes([["and on", ""]])
    converge(device, fresh)
    assert_same(device, fresh)
    device.sync_media()
    fresh.sync_media()
    assert sorted(found[0] for found in fresh.media()) == ["kept.txt", "later.txt"]
    assert "AccessDenied" not in server.log


@pytest.mark.parametrize("is_loss_accepted", [True, False], ids=["to-go-back", "to-lose-nothing"])
def test_a_restored_table_takes_the_place_of_the_damaged_one(
    terraform, applied, cloud, make_device, tmp_path, is_loss_accepted
):
    server = servers.start(
        servers.OURS, tmp_path / "before", [], environment(applied, cloud, tmp_path / "before")
    )
    device = make_device(server.url)
    device.add_notes([["kept", ""]])
    device.upload()
    device.write_media("kept.txt", 100, "v1")
    device.sync_media()
    restore(cloud)
    device.add_notes([["later", ""]])  # after the time that is restored
    device.settle()
    device.write_media("later.txt", 100, "v1")
    device.sync_media()
    assert server.stop() == 0

    state = put_in_place(terraform)
    restored = applied_again(cloud, state, RESTORED, cloud.bucket)
    enforce(cloud.endpoint, after=10)
    dynamodb = client("dynamodb", cloud.endpoint, Keys())
    ttl = dynamodb.describe_time_to_live(TableName=RESTORED)["TimeToLiveDescription"]
    backups = dynamodb.describe_continuous_backups(TableName=RESTORED)["ContinuousBackupsDescription"]
    table = dynamodb.describe_table(TableName=RESTORED)["Table"]
    enforce(cloud.endpoint)
    assert (ttl["TimeToLiveStatus"], ttl["AttributeName"]) == ("ENABLED", "expires")
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
    assert table["DeletionProtectionEnabled"]

    env = environment(state, restored, tmp_path / "after")
    assert env["ANKISYNCD_DYNAMODB_TABLE"] == RESTORED
    server = servers.start(servers.OURS, tmp_path / "after", [], env)
    try:
        control = Control(state, restored, tmp_path / "maintain")
        with pytest.raises(AssertionError, match="the head record is of an earlier moment"):
            control("doctor")
        if is_loss_accepted:
            control("maintain", "--accept-loss")
        else:
            assert "2 head records were made anew" in control.told("rebuild-heads")
        control("doctor")
        fresh = make_device(server.url)
        fresh.first_download()
        notes = [["kept"]] if is_loss_accepted else [["kept"], ["later"]]
        assert fresh.rows("select sfld from notes order by id") == notes
        if not is_loss_accepted:
            goes_on(device, fresh, server)
            return
        # A device that synced since then is told so once, and then asked for a direction.
        device.endpoint(server.url)
        with pytest.raises(ClientError, match="Check Database"):
            device.sync()
        assert device.sync() == "full"
        device.download()
        assert_same(device, fresh)
        # Media come back from the device that has them; it finds the difference, and sends all it has at
        # the next sync.
        with pytest.raises(ClientError, match="sync again"):
            device.sync_media()
        device.sync_media()
        fresh.sync_media()
        assert sorted(found[0] for found in fresh.media()) == ["kept.txt", "later.txt"]
        assert "AccessDenied" not in server.log
    finally:
        assert server.stop() == 0
