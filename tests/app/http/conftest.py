"""One real server with fake services for all tests of a module."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.http.wire import Wire, wire
from tests.support import servers

FAKE = "fake"


@pytest.fixture(scope="module", autouse=True)
def fake_kind() -> Iterator[None]:
    servers.COMMANDS[FAKE] = (sys.executable, str(Path(__file__).with_name("fakeserver.py")))
    yield
    del servers.COMMANDS[FAKE]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, fake_kind: None) -> Iterator[servers.Server]:
    extra = {"MAX_SYNC_PAYLOAD_MEGS": "8", "ANKISYNCD_WORKERS": "1", "ANKISYNCD_LOG_FORMAT": "json"}
    started = servers.start(FAKE, tmp_path_factory.mktemp("fake") / "data", [], extra)
    yield started
    assert started.stop() == 0


@pytest.fixture
def client(server: servers.Server) -> Iterator[Wire]:
    with wire(server.port) as opened:
        yield opened
