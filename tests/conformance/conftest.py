"""One server for all scenarios, a fresh user and two devices for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.device import NEWEST, Device, Pool
from tests.support import aws, cluster, servers

OLDER = ("2.1.49", "2.1.66", "23.10.1", "25.2.7")
ONLY_OURS = (
    "test_closed",
    "test_hostile",
    "test_moving_from",
    "test_operator",
    "test_processes",
    "test_quotas",
    "test_restore",
    "test_syncs",
    "test_trouble",
)
Make = Callable[..., Device]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Scenarios with a `pair` run for two newest clients, and for each older one beside the newest."""
    own = any(mark.args[0] == "versions" for mark in metafunc.definition.iter_markers("parametrize"))
    if "versions" in metafunc.fixturenames and not own:
        mixed = [pair for old in OLDER for pair in ((old, NEWEST), (NEWEST, old))]
        params = [pytest.param((NEWEST, NEWEST), id="newest")]
        params += [pytest.param(p, id="-".join(p), marks=pytest.mark.clients) for p in mixed]
        metafunc.parametrize("versions", params)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The official server referees what real clients do; it is not asked what it is known to get wrong."""
    if config.getoption("--server") == servers.OFFICIAL:
        out = [item for item in items if item.path.name.startswith(ONLY_OURS)]
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    pool = Pool(tmp_path_factory.mktemp("clients"))
    yield pool
    pool.end()


@pytest.fixture(scope="session")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server_kind: str
) -> Iterator[servers.Server | cluster.Cluster]:
    folder = tmp_path_factory.mktemp("server")
    number = 20 + sum(item.path.parent == Path(__file__).parent for item in request.session.items)
    if server_kind.startswith("cloud"):
        users = servers.make_users(number)
        heads = "s3" if server_kind == "cloud-s3" else "dynamodb"
        seed = 1 if server_kind == "cloud-random" else None
        with (
            aws.moto() as engine,
            cluster.cloud(folder, engine, heads) as place,
            cluster.Cluster(folder, users, place, seed=seed) as found,
        ):
            yield found
        return
    # hashing the passwords at the start takes its time, so no more users than tests, or not many
    with servers.serving(server_kind, folder / "data", number) as server:
        yield server


@pytest.fixture
def user(server: servers.Server) -> servers.User:
    return server.next_user()


@pytest.fixture
def make_device(pool: Pool, tmp_path: Path, server: servers.Server) -> Iterator[Make]:
    """Makes a device that is logged in: `make_device(user)`, `make_device(user, "2.1.49")`."""
    devices: list[Device] = []

    def make(user: servers.User, version: str = NEWEST, url: str | None = None) -> Device:
        device = Device(pool, version, tmp_path / f"device{len(devices)}")
        devices.append(device)
        device.log_in(url or server.url, user)
        return device

    yield make
    for device in devices:
        device.end()


@pytest.fixture
def fresh_pair(make_device: Make, user: servers.User, versions: tuple[str, str]) -> tuple[Device, Device]:
    """Two devices of one user who has never synced."""
    devices = make_device(user, versions[0]), make_device(user, versions[1])
    for device in devices:
        device.modern_scheduler()
    return devices


@pytest.fixture
def pair(fresh_pair: tuple[Device, Device]) -> tuple[Device, Device]:
    """Two devices in sync: three notes, reviewed once, in two decks."""
    a, b = fresh_pair
    a.add_notes([["one", "1"], ["two", "2"]])
    a.add_notes([["three", "3"]], deck="Other", tags=["start"])
    a.first_upload()
    b.first_download()
    a.settle()
    b.settle()
    a.settle()
    return a, b
