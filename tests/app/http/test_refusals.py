"""What the operator can learn of a request that was refused: a reason in its line, whatever its status."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from app.http.body import _Capped
from tests.differential.samples import make_collection
from tests.support import servers
from tests.support.waiting import wait_until
from tests.support.wire import Wire, media_zip

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    extra = {"ANKISYNCD_WORKERS": "1", "ANKISYNCD_LOG_FORMAT": "json", "MAX_SYNC_PAYLOAD_MEGS": "1"}
    with servers.serving(servers.OURS, tmp_path_factory.mktemp("refusals") / "data", 10, extra) as started:
        yield started


@pytest.fixture
def wire(server: servers.Server) -> Iterator[Wire]:
    user = server.next_user()
    with Wire(server.port, skey="x") as opened:
        opened.login(user.name, user.password)
        yield opened


def line_of(server: servers.Server, number: int, method: str) -> dict[str, object]:
    """The log's line of the `number`th request of a method, which is written after its answer."""

    def find() -> dict[str, object] | None:
        lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
        found = [line for line in lines if line.get("method") == method]
        return found[number] if len(found) > number else None

    return wait_until(find)


def asked(server: servers.Server, method: str) -> int:
    return server.log.count(f'"method":"{method}"')


def spoiled(folder: Path) -> bytes:
    path = folder / "collection.anki2"
    make_collection(path, 3)
    connection = apsw.Connection(str(path))
    connection.execute("update notes set mid = ''")
    connection.close()
    return path.read_bytes()


def test_an_upload_that_is_refused_says_why(server: servers.Server, wire: Wire, tmp_path: Path) -> None:
    for content, why in (
        (b"junk", "upload refused: "),
        (spoiled(tmp_path), "in notes"),
        (bytes(4 * MIB), "limit"),
    ):
        before = asked(server, "upload")
        answer = wire.upload(content)
        assert answer.status == 200
        assert answer.body != b"OK"
        line = line_of(server, before, "upload")
        assert (line["method"], line["status"], line["level"]) == ("upload", 200, "warning")
        assert why in str(line["reason"])


def test_the_reason_of_one_upload_does_not_stay_for_the_next(
    server: servers.Server, wire: Wire, tmp_path: Path
) -> None:
    before = asked(server, "upload")
    wire.upload(b"junk")
    assert wire.upload(make_collection(tmp_path / "collection.anki2", 3)).body == b"OK"
    assert "reason" not in line_of(server, before + 1, "upload")


@pytest.mark.parametrize(
    ("zipped", "why"),
    [(b"junk", "zip"), (media_zip([("a/b", b"x")]), "file name"), (media_zip([("a", b"")]), "zero bytes")],
)
def test_a_media_batch_that_is_refused_says_why(
    server: servers.Server, wire: Wire, zipped: bytes, why: str
) -> None:
    before = asked(server, "uploadChanges")
    assert wire.call("uploadChanges", zipped).status == 400
    line = line_of(server, before, "uploadChanges")
    assert (line["method"], line["level"]) == ("uploadChanges", "warning")
    assert why in str(line["reason"])


def test_a_disk_that_takes_no_more_of_a_body_is_503_and_loses_nothing(tmp_path: Path) -> None:
    """The largest file that the process may write stands for a disk that becomes full."""
    limited = "limited"
    command = f'ulimit -f 3000; exec "{sys.executable}" -m app.cli.server'
    servers.COMMANDS[limited] = ("/bin/bash", "-c", command)
    try:
        with servers.serving(limited, tmp_path / "data", 1, {"ANKISYNCD_WORKERS": "1"}) as server:
            user = server.next_user()
            with Wire(server.port, skey="x") as wire:
                wire.login(user.name, user.password)
                assert wire.call("uploadChanges", media_zip([("kept", b"kept")])).ok
                noise = random.Random(1).randbytes(6 * MIB)
                for answer in (
                    wire.upload(noise),
                    wire.legacy("upload", noise),
                    wire.call("uploadChanges", media_zip([("large", noise)])),
                ):
                    assert answer.status == 503, answer
                    assert "retry-after" in answer.headers
                assert wire.call("downloadFiles", {"files": ["kept"]}).ok
                spool = server.folder / "ankisyncd" / "spool"
                assert not [path for path in spool.rglob("*") if path.is_file() and path.stat().st_size]
            assert "Traceback" not in server.log
    finally:
        del servers.COMMANDS[limited]


def test_a_disk_that_takes_a_part_is_asked_again() -> None:
    class Nearly:
        def __init__(self) -> None:
            self.content = b""

        def write(self, piece: memoryview) -> int:
            self.content += bytes(piece[:3])
            return min(3, len(piece))

    file = Nearly()
    _Capped(file, 100).write(b"0123456789")
    assert file.content == b"0123456789"
