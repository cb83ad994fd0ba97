"""Kept connections against a server that answers by a script, and signatures against the SDK's."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import suppress

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
    SSLError,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from storage import awshttp
from storage.awshttp import Connections, Signer, Tls

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Server:
    """Answers each request by the next item of a script: bytes, or None to close without an answer."""

    def __init__(self, script, certificate=None):
        self._tls = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)
        self.connections = 0
        self.requests = []
        self._script = list(script)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._open = []
        self._threads[0].start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection):
        with connection, suppress(OSError):  # the client may close it, and so may a test
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            while request := connection.recv(1 << 16):
                self.requests.append(request)
                answer = self._script.pop(0)
                if answer is None:
                    return
                connection.sendall(answer)
                if b"cut" in answer:
                    return

    def close_connections(self):
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for thread in self._threads[1:]:
            thread.join(5)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.close_connections()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def serve():
    servers = []

    def start(*script, certificate=None):
        servers.append(Server(script, certificate))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def connections_to(port, *, read_timeout_s=5, most=4, tls=None):
    return Connections("127.0.0.1", port, tls, connect_timeout_s=5, read_timeout_s=read_timeout_s, most=most)


def test_a_connection_is_used_again(serve):
    server = serve(OK, OK)
    connections = connections_to(server.port)
    assert [connections.send("GET", GET, b"").body for _ in range(2)] == [b"ok", b"ok"]
    assert server.connections == 1


def test_a_connection_that_the_server_closed_while_idle_is_not_used(serve, monkeypatch):
    server = serve(OK, OK)
    connections = connections_to(server.port)
    connections.send("GET", GET, b"")
    server.close_connections()
    monkeypatch.setattr(awshttp, "_CHECKED_AFTER_S", -1)
    assert connections.send("GET", GET, b"").status == 200
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok, cut",
    ],
)
def test_a_connection_that_ends_with_an_answer_is_not_used_again(serve, answer):
    server = serve(answer, OK)
    connections = connections_to(server.port)
    assert connections.send("GET", GET, b"").body.startswith(b"ok")
    assert connections.send("GET", GET, b"").body == b"ok"
    assert server.connections == 2


def test_an_answer_in_chunks_is_read_whole(serve):
    chunked = b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    server = serve(chunked, OK)
    connections = connections_to(server.port)
    answer = connections.send("GET", GET, b"")
    assert (answer.status, answer.body) == (404, b"abcde")
    assert connections.send("GET", GET, b"").body == b"ok"
    assert server.connections == 1


def test_an_answer_to_head_has_no_body(serve):
    server = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", OK)
    connections = connections_to(server.port)
    assert connections.send("HEAD", GET, b"").headers["content-length"] == "500"
    assert connections.send("GET", GET, b"").body == b"ok"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (None, ConnectionClosedError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\ncut", HTTPClientError),
        (b"no HTTP, cut", HTTPClientError),
    ],
)
def test_a_broken_answer_is_an_error_that_the_sdk_repeats(serve, answer, error):
    server = serve(answer, OK)
    connections = connections_to(server.port)
    with pytest.raises(error):
        connections.send("GET", GET, b"")
    assert connections.send("GET", GET, b"").body == b"ok"
    assert server.connections == 2


def test_an_answer_that_does_not_come_ends_the_connection(serve):
    server = serve(b"HTTP/1.1 200", OK)
    connections = connections_to(server.port, read_timeout_s=0.05)
    with pytest.raises(ReadTimeoutError):
        connections.send("GET", GET, b"")
    assert connections.send("GET", GET, b"").body == b"ok"
    assert server.connections == 2


def test_a_request_that_is_given_up_leaves_no_half_read_connection(serve, monkeypatch):
    server = serve(OK, OK)
    connections = connections_to(server.port)

    class GivenUp(BaseException):
        pass

    def give_up(*_):
        raise GivenUp

    with monkeypatch.context() as patched:
        patched.setattr(awshttp, "_read_answer", give_up)
        with pytest.raises(GivenUp):
            connections.send("GET", GET, b"")
    assert connections.send("GET", GET, b"").body == b"ok"
    assert server.connections == 2


def test_a_server_that_is_not_there_is_an_error_that_the_sdk_repeats():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(EndpointConnectionError):
        connections_to(port).send("GET", GET, b"")


def test_a_connection_that_takes_too_long_is_an_error_that_the_sdk_repeats(monkeypatch):
    def late(*_, **__):
        raise TimeoutError

    monkeypatch.setattr(awshttp.socket, "create_connection", late)
    with pytest.raises(ConnectTimeoutError):
        connections_to(1).send("GET", GET, b"")


def test_a_server_that_speaks_no_tls_is_an_error_that_the_sdk_repeats(serve):
    server = serve(b"plain HTTP, cut")
    with pytest.raises(SSLError):
        connections_to(server.port, tls=Tls(verify=True, certificate=None, key=None)).send("GET", GET, b"")


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "both.pem"
    plain = serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return str(path)


def test_tls_is_spoken_with_a_server_whose_authority_is_named(serve, certificate):
    server = serve(OK, OK, certificate=certificate)
    connections = connections_to(server.port, tls=Tls(certificate, None, None))
    assert [connections.send("GET", GET, b"").body for _ in range(2)] == [b"ok", b"ok"]
    assert server.connections == 1


def test_a_server_of_an_unknown_authority_is_sent_nothing(serve, certificate):
    server = serve(OK, certificate=certificate)
    with pytest.raises(SSLError, match="certificate verify failed"):
        connections_to(server.port, tls=Tls(verify=True, certificate=None, key=None)).send("GET", GET, b"")
    assert server.requests == []


def test_servers_are_verified_unless_the_sdk_is_told_not_to():
    assert Tls(verify=True, certificate=None, key=None).context().check_hostname
    assert not Tls(verify=False, certificate=None, key=None).context().check_hostname


def test_connections_that_were_not_needed_for_long_are_closed(serve):
    connections = connections_to(serve(OK).port)
    old, young = socket.socket(), socket.socket()
    now_s = time.monotonic()
    connections._idle += [(old, now_s - 61), (young, now_s - 59)]
    connections._keep(socket.socket())
    assert (old.fileno(), young.fileno() == -1, len(connections._idle)) == (-1, False, 2)


def test_no_more_connections_are_kept_than_allowed(serve):
    server = serve(OK, OK, OK)
    connections = connections_to(server.port, most=0)
    for _ in range(3):
        connections.send("GET", GET, b"")
    assert server.connections == 3


_words = st.text("abcXYZ019-_/.+=", min_size=1, max_size=30)


@given(
    service=st.sampled_from(["dynamodb", "s3"]),
    method=st.sampled_from(["GET", "PUT", "POST", "HEAD"]),
    token=st.none() | _words,
    secret=_words,
    extra=st.dictionaries(st.text("abcxyz-", min_size=1, max_size=10).map("x-amz-".__add__), _words),
    body=st.binary(max_size=50),
)
def test_signatures_are_those_of_the_sdk(service, method, token, secret, extra, body):
    credentials = Credentials("AKID", secret, token)
    url = "http://127.0.0.1:99/some/place%2Bx~y"
    digest = awshttp.sha256(body).hexdigest()
    headers = {"host": "127.0.0.1:99", **extra}
    if service == "s3":
        headers["x-amz-content-sha256"] = digest
    Signer(service, "eu-central-1").sign(credentials, method, "/some/place%2Bx~y", headers, digest)

    theirs = AWSRequest(method, url, dict(extra), data=body)
    kind = botocore.auth.S3SigV4Auth if service == "s3" else _SigV4WithPathAsIs
    signer = kind(credentials, service, "eu-central-1")
    theirs.context["timestamp"] = headers["x-amz-date"]
    signer._modify_request_before_signing(theirs)
    told = signer.string_to_sign(theirs, signer.canonical_request(theirs))
    signer._inject_signature_to_request(theirs, signer.signature(told, theirs))
    assert headers["authorization"] == theirs.headers["Authorization"]


class _SigV4WithPathAsIs(botocore.auth.SigV4Auth):
    """DynamoDB's path is always `/`; this one lets it be tried with another."""

    def _normalize_url_path(self, path):
        return path


def test_a_new_day_or_a_new_secret_has_a_new_key():
    signer = Signer("s3", "r")
    keys = {
        signer._key_of(secret, day)
        for secret in ("one", "two")
        for day in ("20260101", "20260102")
        for _ in "ab"
    }
    assert len(keys) == 4
