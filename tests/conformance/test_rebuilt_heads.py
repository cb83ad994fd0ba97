"""The head records are lost; the objects bring them back, and real clients go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.device import assert_same, converge, made_devices
from tests.support import servers
from tests.support.services import PLACES, sync_media, worked_with


@pytest.mark.parametrize("place", PLACES)
def test_clients_go_on_with_ordinary_syncs(tmp_path: Path, place: str) -> None:
    user = servers.User("ann", "secret")
    with PLACES[place](tmp_path, user) as service, made_devices(tmp_path, user) as make:
        server = service.start()
        try:
            a, b = make(server.url), make(server.url)
            worked_with(a, b)
            a.add_notes([["not sent yet", "by a"]])
            b.write_media("not-sent.txt", 100, "v1")
        finally:
            assert server.stop() == 0
        service.lose_heads()
        assert "head record is lost" in service.control("doctor").stdout
        done = service.control("rebuild-heads")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "2 head records were made anew" in done.stderr
        server = service.start()
        try:
            for device in (a, b):
                device.log_in(server.url, user)
            converge(a, b)
            assert_same(a, b)
            assert b.rows("select count() from notes where flds like 'not sent yet%'") == [[1]]
            sync_media(a, b)
            assert a.media() == b.media()
            assert {found[0] for found in a.media()} == {"kept.txt", "not-sent.txt"}
            assert a.check()[1]
            told = service.control("doctor", "--read-media")
            assert told.returncode == 0, told.stdout + told.stderr
        finally:
            assert server.stop() == 0
