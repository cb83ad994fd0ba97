"""The official server as a referee for the messages and steps of a sync."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time

import pytest
import zstandard

from storage.collection.codec import Codec
from tests.app.sync.scripts import Base
from tests.app.sync.workers import World


class Official:
    """One running official server with one user."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.key = json.loads(self.post("hostKey", b'{"u":"u","p":"p"}', hkey="")[1])["key"]

    def post(
        self, method: str, payload: bytes, skey: str = "s1", hkey: str | None = None
    ) -> tuple[int, bytes]:
        """Status and unpacked body."""
        header = {"v": 11, "k": self.key if hkey is None else hkey, "c": "x,y,z", "s": skey}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            body = zstandard.ZstdCompressor(level=1).compress(payload)
            connection.request("POST", f"/sync/{method}", body, {"anki-sync": json.dumps(header)})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status == 200:
            answer = zstandard.ZstdDecompressor().decompressobj().decompress(answer)
        return response.status, answer


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)  # another program is starting: there is nothing to be told by
        else:
            return
    raise RuntimeError("the official server does not start")


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """The official server with an empty user, for one test module."""
    port = _free_port()
    env = os.environ | {
        "SYNC_USER1": "u:p",
        "SYNC_BASE": str(tmp_path_factory.mktemp("official")),
        "SYNC_HOST": "127.0.0.1",
        "SYNC_PORT": str(port),
    }
    command = [sys.executable, "-m", "anki.syncserver"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield Official(port)
    finally:
        process.kill()
        process.wait()
