"""Connections that do nothing, or little, against the one worker of a real server with low limits."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.http.conftest import FAKE
from tests.app.http.wire import BOUNDARY, direct, form, head, header, legacy, packed, wire
from tests.support import servers
from tests.support.waiting import wait_until

META = {"v": 11}
MOST, PER_ADDRESS = 40, 30


def started(folder: Path, **extra: str) -> servers.Server:
    settings = {"ANKISYNCD_WORKERS": "1", "ANKISYNCD_LOG_FORMAT": "json", "ANKISYNCD_HOST": "0.0.0.0"}
    return servers.start(FAKE, folder / "data", [], settings | extra)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A server that keeps few connections open."""
    limits = {"ANKISYNCD_CONNECTIONS": str(MOST), "ANKISYNCD_CONNECTIONS_PER_ADDRESS": str(PER_ADDRESS)}
    server = started(tmp_path_factory.mktemp("few"), **limits)
    yield server
    assert server.stop() == 0
    assert "Traceback" not in server.log


@contextlib.contextmanager
def opened(
    port: int, count: int, data: bytes = b"", address: str = "127.0.0.1"
) -> Iterator[list[socket.socket]]:
    sockets = []
    for _ in range(count):
        one = socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(address, 0))
        one.sendall(data)
        sockets.append(one)
    try:
        yield sockets
    finally:
        for one in sockets:
            one.close()


def is_open(one: socket.socket) -> bool:
    one.settimeout(0)
    try:
        return one.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def meta_status(port: int) -> int:
    with wire(port) as client:
        return client.ask(direct("/sync/meta", META)).status


def health_status(port: int) -> int:
    with wire(port) as client:
        return client.ask(head("/health", method="GET")).status


HALF_HEAD = b"POST /sync/meta HTTP/1.1\r\nhost: x\r\nx: "
HALF_BODY = head("/sync/meta", f"anki-sync: {header(k='')}", "content-length: 60000") + b"x" * 100


@pytest.mark.parametrize("data", [b"", HALF_HEAD, HALF_BODY], ids=["silent", "half a head", "half a body"])
def test_connections_that_do_nothing_make_room(few: servers.Server, data: bytes) -> None:
    with (
        opened(few.port, MOST, data, "127.0.0.2") as first,
        opened(few.port, MOST, data, "127.0.0.3") as second,
    ):
        for _ in range(3):
            assert meta_status(few.port) == 200
        assert health_status(few.port) == 200
        # Half of a body that is not authenticated is ended for want of waiting ones only.
        assert sum(map(is_open, [*first, *second])) < 2 * MOST


def test_connections_that_wait_for_their_next_request_make_room(few: servers.Server) -> None:
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(wire(few.port)) for _ in range(PER_ADDRESS)]
        for one in kept:
            assert one.ask(direct("/sync/meta", META)).status == 200
        assert meta_status(few.port) == 200
        assert kept[0].is_closed_by_server()
        assert kept[-1].ask(direct("/sync/meta", META)).status == 200


def test_an_address_that_takes_all_it_may_leaves_room_for_others(few: servers.Server) -> None:
    """All of its requests run, so none of its connections can be closed."""
    body = direct("/sync/sanityCheck2", 3.0)  # which the fake takes three seconds for
    with opened(few.port, PER_ADDRESS, body, "127.0.0.9"):
        time.sleep(0.8)  # until all of them are read
        with opened(few.port, 1, direct("/sync/meta", META), "127.0.0.9") as (late,):
            answer = late.recv(1000)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: " in answer
        with opened(few.port, 1, head("/health", method="GET"), "127.0.0.9") as (asking,):
            assert asking.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert meta_status(few.port) == 200


def test_health_is_answered_when_all_connections_are_busy(few: servers.Server) -> None:
    body = head(
        "/sync/sanityCheck2", f"anki-sync: {header()}", f"content-length: {len(packed(3.0))}"
    ) + packed(3.0)
    with opened(few.port, 25, body, "127.0.0.4"), opened(few.port, 25, body, "127.0.0.5"):
        time.sleep(0.8)  # until all of them are read
        assert health_status(few.port) == 200
        assert meta_status(few.port) == 503
    wait_until(lambda: meta_status(few.port) == 200)
    lines = [json.loads(line) for line in few.log.splitlines() if line.startswith("{")]
    assert [line["reason"] for line in lines if line.get("status") == 503][-1] == "too many connections"


def test_a_form_without_a_known_key_is_refused_after_64_kib(few: servers.Server) -> None:
    data = ("data", b"x" * 1_000_000)
    for key in (b"wrong", b"key-of-joe"):
        body = form(("k", key), data)
        with wire(few.port) as client:
            kind = f"content-type: multipart/form-data; boundary={BOUNDARY}"
            client.send(head("/sync/upload", kind, f"content-length: {len(body)}"), body[:70_000])
            if key == b"wrong":
                assert client.answer().status == 403
            else:
                client.send(body[70_000:])
                assert client.answer().status == 200


def test_a_form_whose_key_comes_last_is_taken_as_clients_before_2_1_57_send_it(few: servers.Server) -> None:
    with wire(few.port) as client:
        body = form(("data", b"x" * 1_000_000), ("c", b"0"), ("k", b"key-of-joe"), ("s", b"s"))
        assert client.ask(legacy("/sync/upload", body)).status == 200


OTHER_PROTOCOLS = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "PROXY protocol": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9\r\n",
}


@pytest.mark.parametrize("name", OTHER_PROTOCOLS)
def test_another_protocol_is_named_in_the_log(few: servers.Server, name: str) -> None:
    with wire(few.port) as client:
        assert client.ask(OTHER_PROTOCOLS[name]).status == 400
    lines = [json.loads(line) for line in few.log.splitlines() if line.startswith("{")]
    assert any(name in line.get("reason", "") for line in lines)


@pytest.mark.parametrize(
    "path", ["/sync/host%4Bey", "/sync/%68ostKey", "/%73ync/hostKey", "/sync%2FhostKey", "/x/sync/hostKe%79"]
)
def test_a_percent_sign_is_part_of_no_path_of_ours(few: servers.Server, path: str) -> None:
    with wire(few.port) as client:
        login = {"u": "joe", "p": "secret-password"}
        assert client.ask(direct(path, login, k="")).status in {400, 404}


@pytest.mark.parametrize(
    "kind",
    [
        f"Multipart/Form-Data; Boundary={BOUNDARY}",
        f'MULTIPART/FORM-DATA;BOUNDARY="{BOUNDARY}"',
        f"multipart/form-data; charset=utf-8; bOuNdArY={BOUNDARY}",
    ],
)
def test_media_types_and_parameters_are_compared_without_case(few: servers.Server, kind: str) -> None:
    body = form(("k", b"key-of-joe"), ("data", b"{}"))
    body = body.replace(b"Content-Disposition: form-data; name=", b"CONTENT-DISPOSITION: Form-Data; NAME=")
    with wire(few.port) as client:
        answer = client.ask(
            head("/sync/meta", f"Content-Type: {kind}", f"content-length: {len(body)}") + body
        )
        assert answer.status == 200


def test_a_stop_closes_all_that_wait(tmp_path: Path) -> None:
    server = started(tmp_path)
    with opened(server.port, 100), opened(server.port, 100, HALF_HEAD):
        assert meta_status(server.port) == 200
        assert server.stop() == 0
