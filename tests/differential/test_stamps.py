"""The stamps that full syncs leave in `col` of both devices and in `meta`, beside the official server's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.device import NEWEST, Device, Pool
from tests.support.servers import Server
from tests.support.wire import Wire


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    pool = Pool(tmp_path_factory.mktemp("clients"))
    yield pool
    pool.end()


class Scene:
    """Two devices of a new user of a server, and what each side says of the collection."""

    def __init__(self, server: Server, pool: Pool, folder: Path) -> None:
        user = server.next_user()
        self.devices = [Device(pool, NEWEST, folder / f"{server.kind}{number}") for number in range(2)]
        for device in self.devices:
            device.log_in(server.url, user)
        self._wire = Wire(server.port)
        self._wire.login(user.name, user.password)

    def stamps(self) -> list[list[int]]:
        """(mod, scm, usn) of the server, then (mod, scm, usn, ls) of each device."""
        meta = self._wire.call("meta", {"v": 11, "cv": "tests"}).json
        rows = [device.rows("select mod, scm, usn, ls from col")[0] for device in self.devices]
        return [[meta["mod"], meta["scm"], meta["usn"]], *map(list, rows)]

    def end(self) -> None:
        self._wire.connection.close()
        for device in self.devices:
            device.end()


def _relations(before: list[list[int]], after: list[list[int]]) -> dict[str, Any]:
    """How the stamps of a moment hang together, free of the time of day."""
    server, first, second = after
    return {
        "the server's mod moved on": server[0] > before[0][0],
        "the server's scm moved on": server[1] > before[0][1],
        "the server's usn": server[2],
        "the usn of the devices": [first[2], second[2]],
        "mod as on the server": [first[0] == server[0], second[0] == server[0]],
        "scm as on the server": [first[1] == server[1], second[1] == server[1]],
        "the second device is clean": second[0] == second[3],
        "changed by a later step": [first[0] != before[1][0], second[0] != before[2][0]],
    }


def _story(server: Server, pool: Pool, folder: Path) -> list[dict[str, Any]]:
    scene = Scene(server, pool, folder)
    try:
        a, b = scene.devices
        a.add_notes([["front", "back"]])
        moments = [scene.stamps()]
        for step in (a.upload, b.download, a.settle, b.settle, b.download):
            step()
            moments.append(scene.stamps())
        # whatever the millisecond that the upload left between the two, the first device is clean now
        assert moments[3][1][0] == moments[3][1][3]
        return [_relations(*pair) for pair in itertools.pairwise(moments)]
    finally:
        scene.end()


def test_full_syncs_leave_the_stamps_that_the_official_server_leaves(
    official: Server, examined: Server, pool: Pool, tmp_path: Path
) -> None:
    assert _story(examined, pool, tmp_path) == _story(official, pool, tmp_path)
