"""The shipped proxy configurations in front of a real server, and what each must let through."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from tests.conformance.device import NEWEST, Device, Pool, assert_same
from tests.docker.proxies import DOCKER, PROXIES, Proxy
from tests.support import servers
from tests.support.wire import dump, sync_header

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]
MIB = 1024 * 1024
SECURITY = {
    "strict-transport-security": "max-age=31536000",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}


@pytest.fixture(scope="module", params=sorted(PROXIES))
def start_proxy(request):
    return PROXIES[request.param]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[servers.Server]:
    folder = tmp_path_factory.mktemp("server")
    settings = {"ANKISYNCD_IP_HEADER": "RightmostXForwardedFor", "MAX_SYNC_PAYLOAD_MEGS": "200"}
    with servers.serving(servers.OURS, folder / "data", 12, settings) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(start_proxy, server, tmp_path_factory) -> Iterator[Proxy]:
    with start_proxy(tmp_path_factory.mktemp("proxy"), server.port) as proxy:
        yield proxy


@pytest.fixture
def make_device(proxy, server, tmp_path, monkeypatch):
    """Makes devices that trust the test's authority, as a system's store would have it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(proxy.certificates.authority))
    pool, devices = Pool(tmp_path), []

    def make(user: servers.User) -> Device:
        device = Device(pool, NEWEST, tmp_path / f"device{len(devices)}")
        devices.append(device)
        device.log_in(proxy.url, user)
        return device

    yield make
    for device in devices:
        device.end()
    pool.end()


def https(proxy: Proxy) -> http.client.HTTPSConnection:
    trusting = ssl.create_default_context(cafile=str(proxy.certificates.authority))
    return http.client.HTTPSConnection("localhost", proxy.port, timeout=60, context=trusting)


def test_devices_sync_and_so_do_their_media(make_device, server):
    user = server.next_user()
    a, b = make_device(user), make_device(user)
    a.add_notes([["one", "1"], ["two", "2"]])
    a.first_upload()
    b.first_download()
    b.add_notes([["three", "3"]])
    b.settle()
    a.settle()
    assert_same(a, b)
    a.sync_media()


def test_a_collection_of_three_hundred_megabytes_goes_up_and_comes_down(make_device, server):
    user = server.next_user()
    a, b = make_device(user), make_device(user)
    a.add_notes([[f"note {number}", "back"] for number in range(150)])
    a.execute("update notes set flds = hex(randomblob(1050000)) || char(31) || 'back'")
    assert Path(a.folder / "collection.anki2").stat().st_size > 300 * MIB
    a.first_upload()
    b.first_download()
    digest = "select count(), sum(length(flds)), max(flds) = min(flds) from notes"
    assert a.rows(digest) == b.rows(digest)


def test_a_chunked_request_is_served(proxy, server):
    user = server.next_user()
    body = zstandard.compress(dump({"u": user.name, "p": user.password}))
    connection = https(proxy)
    pieces = iter([body[:5], body[5:]])
    headers = {"anki-sync": sync_header("", ""), "transfer-encoding": "chunked"}
    connection.request("POST", "/sync/hostKey", pieces, headers, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 200
    assert json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(answer.read()))["key"]
    connection.close()


def test_answers_carry_the_security_headers_and_name_no_program(proxy):
    connection = https(proxy)
    for path in ("/health", "/nothing"):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        found = {name.lower(): value for name, value in answer.getheaders()}
        assert {name: found.get(name) for name in SECURITY} == SECURITY
        assert not any(character.isdigit() for character in found.get("server", ""))
    connection.close()


def test_the_server_learns_the_clients_own_address(proxy, server):
    connection = https(proxy)
    connection.request("GET", "/nothing-here", headers={"x-forwarded-for": "203.0.113.9"})
    connection.getresponse().read()
    connection.close()
    line = next(line for line in reversed(server.log.splitlines()) if " request " in line and "404" in line)
    assert "address=127.0.0.1" in line


def test_two_gigabytes_are_the_limit(proxy, start_proxy):
    """nginx refuses the size by its announcement; Caddy counts, which takes too long to be tried here."""
    if start_proxy is PROXIES["caddy"]:
        assert "max_size 2GB" in (DOCKER / "Caddyfile").read_text()
        return
    connection = https(proxy)
    connection.putrequest("POST", "/sync/upload")
    connection.putheader("content-length", str(2**31 + 1))
    connection.putheader("expect", "100-continue")
    connection.endheaders()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        connection.send(b"x")
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_protocols_of_tls_are_refused(proxy):
    old = ssl.create_default_context(cafile=str(proxy.certificates.authority))
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as raw,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(raw, server_hostname="localhost")


class Upstream:
    """Takes one connection and waits to be told what to say."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._listener.settimeout(30)

    def accept(self) -> socket.socket:
        connection, _ = self._listener.accept()
        connection.settimeout(30)
        return connection

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    found = b""
    while mark not in found:
        piece = connection.recv(65536)
        assert piece, found
        found += piece
    return found


@pytest.mark.parametrize("framing", ["content-length: 40", "transfer-encoding: chunked"])
def test_bodies_pass_as_they_come_in_both_directions(start_proxy, upstream, tmp_path, framing):
    """The server has the first half of a request before the second is sent; then so for the answer."""
    chunked = "chunked" in framing
    halves = [b"a" * 20, b"b" * 20]
    with start_proxy(tmp_path, upstream.port) as proxy, proxy.connect() as client:
        client.sendall(f"POST /sync/upload HTTP/1.1\r\nhost: localhost\r\n{framing}\r\n\r\n".encode())
        client.sendall(b"14\r\n" + halves[0] + b"\r\n" if chunked else halves[0])
        with contextlib.closing(upstream.accept()) as server:
            read_until(server, halves[0])
            client.sendall(b"14\r\n" + halves[1] + b"\r\n0\r\n\r\n" if chunked else halves[1])
            read_until(server, halves[1])
            server.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n" + halves[0])
            read_until(client, halves[0])
            server.sendall(halves[1])
            read_until(client, halves[1])


def test_silence_of_a_minute_is_borne(tmp_path):
    """A server that checks an upload or makes a download says nothing for a while; 60 s is nginx's default.

    All proxies at once, so that the minute passes once.
    """
    with contextlib.ExitStack() as stack:
        sides = []
        for name, start in PROXIES.items():
            upstream = stack.enter_context(contextlib.closing(Upstream()))
            (tmp_path / name).mkdir()
            proxy = stack.enter_context(start(tmp_path / name, upstream.port))
            client = stack.enter_context(proxy.connect())
            client.sendall(b"POST /sync/upload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\na")
            server = stack.enter_context(contextlib.closing(upstream.accept()))
            read_until(server, b"\r\n\r\na")
            sides.append((client, server))
        silent_until = time.monotonic() + 61
        for client, _ in sides:
            client.settimeout(max(0.1, silent_until - time.monotonic()))
            with pytest.raises(TimeoutError):
                client.recv(1)
        for client, server in sides:
            client.settimeout(30)
            server.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK")
            assert read_until(client, b"\r\n\r\nOK").startswith(b"HTTP/1.1 200")
