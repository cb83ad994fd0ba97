"""The official server as referee, and the server that is examined."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.differential.samples import Templates, make_collection, make_templates
from tests.support import servers

USERS = int(os.environ.get("WALKS", "200")) + 500  # hashed cheaply, they cost next to nothing


@pytest.fixture(scope="session")
def official(official_server: servers.Server) -> servers.Server:
    return official_server


@pytest.fixture(scope="session")
def examined(tmp_path_factory: pytest.TempPathFactory, server_kind: str) -> Iterator[servers.Server]:
    users = servers.make_users(USERS)
    folder = tmp_path_factory.mktemp("examined") / "data"
    with servers.serving(server_kind, folder, users, servers.hashed(users)) as server:
        yield server


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    return make_templates(tmp_path_factory.mktemp("templates"))


@pytest.fixture(scope="session")
def collections(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("collections")
    return [make_collection(folder / f"{notes}.anki2", notes) for notes in (0, 3, 20)]
