"""The official server as a referee for the messages and steps of a sync."""

from __future__ import annotations

import pytest

from storage.collection.engine.codec import Codec
from tests.app.sync.scripts import Base
from tests.app.sync.workers import World
from tests.support.servers import Server
from tests.support.wire import Wire


class Official:
    """A user of the official server who has nothing yet."""

    def __init__(self, server: Server) -> None:
        user = server.next_user()
        self._wire = Wire(server.port)
        self._wire.login(user.name, user.password)

    def post(self, method: str, payload: bytes, skey: str = "s1") -> tuple[int, bytes]:
        """Status and unpacked body."""
        answer = self._wire.call(method, payload, skey=skey)
        return answer.status, answer.body

    def close(self) -> None:
        self._wire.connection.close()


@pytest.fixture(scope="session")
def codec():
    """The engine, which is slow to start."""
    return Codec()


@pytest.fixture(scope="session")
def base(tmp_path_factory, codec):
    """A collection with notes, cards, revlog and graves; never written to."""
    return Base(tmp_path_factory.mktemp("base") / "collection.anki2", codec)


@pytest.fixture
def empty_world(tmp_path, codec):
    """A user who has nothing yet."""
    world = World(tmp_path, codec)
    yield world
    world.close()


@pytest.fixture
def world(tmp_path, codec, base):
    """A user who has `base`."""
    world = World(tmp_path, codec, base)
    yield world
    world.close()


@pytest.fixture(scope="module")
def official(official_server):
    """The official server with an empty user, for one test module."""
    found = Official(official_server)
    yield found
    found.close()
