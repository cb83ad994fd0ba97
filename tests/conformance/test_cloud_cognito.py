"""Real clients log in through a Cognito user pool, as moto plays it, on servers that share nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.conformance.conftest import Make
from tests.conformance.device import ClientError
from tests.conformance.test_restore import Admin
from tests.support import aws
from tests.support.cluster import Cluster, cloud
from tests.support.userpool import UserPool

pytestmark = [pytest.mark.one_server, pytest.mark.thorough]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, UserPool]]:
    folder = tmp_path_factory.mktemp("cognito")
    with aws.moto() as engine, cloud(folder, engine) as place:
        pool = UserPool(engine)
        place.extra = pool.settings | {"ANKISYNCD_RECHECK_MINUTES": "0"}
        with Cluster(folder, [], place, size=2) as cluster:
            yield cluster, pool


@pytest.fixture
def server(setting: tuple[Cluster, UserPool]) -> Cluster:
    return setting[0]


@pytest.fixture
def user_pool(setting: tuple[Cluster, UserPool]) -> UserPool:
    return setting[1]


def test_a_user_of_the_pool_syncs_two_devices(user_pool: UserPool, make_device: Make) -> None:
    alice = user_pool.add("alice")
    a, b = make_device(alice), make_device(alice)
    a.add_notes([["one", "1"]])
    a.first_upload()
    b.first_download()
    b.add_notes([["two", "2"]])
    b.settle()
    a.settle()
    assert a.rows("select count() from notes") == [[2]]


def test_a_wrong_password_is_refused_by_the_pool(user_pool: UserPool, make_device: Make) -> None:
    bob = user_pool.add("bob")
    with pytest.raises(ClientError, match="incorrect"):
        make_device(replace(bob, password="Wrong-Horse-2"))


def test_a_disabled_user_loses_the_key_and_gets_it_back_only_by_logging_in(
    user_pool: UserPool, server: Cluster, make_device: Make
) -> None:
    carol = user_pool.add("carol")
    device = make_device(carol)
    device.add_notes([["one", "1"]])
    device.first_upload()
    user_pool.disable(carol)
    for _ in server.members:
        with pytest.raises(ClientError, match="incorrect"):
            device.sync()
    with pytest.raises(ClientError, match="incorrect"):
        device.log_in(server.url, carol)
    user_pool.enable(carol)
    with pytest.raises(ClientError, match="incorrect"):
        device.sync()
    device.log_in(server.url, carol)
    device.settle()


def test_an_administrator_finds_users_by_name_and_email(
    user_pool: UserPool, server: Cluster, make_device: Make
) -> None:
    dora = user_pool.add("dora")
    user_pool.client.admin_update_user_attributes(
        UserPoolId=user_pool.id,
        Username="dora",
        UserAttributes=[{"Name": "email", "Value": "dora@school.example"}],
    )
    device = make_device(dora)
    device.add_notes([["one", "1"]])
    device.first_upload()
    admin = Admin(server)
    for name in ("dora", "dora@school.example"):
        (row,) = admin.json("status", name)
        assert (row["name"], row["notes"]) == ("dora", 1)
    (key,) = admin.json("key", "list", "dora")
    assert key["user"] == "dora"
    assert [row["outcome"] for row in admin.json("syncs", "dora")] == ["uploaded one way"]
    assert "dora" in {row["name"] for row in admin.json("status")}
