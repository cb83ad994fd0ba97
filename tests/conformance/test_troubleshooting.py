"""Each message that TROUBLESHOOTING.md answers is caused here, and has to be there in its exact words."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.server
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from storage.errors import StorageError
from storage.heads.local import LocalHeadStore
from storage.types import run_inline
from tests.conformance.device import NEWEST, ClientError, Device, Pool
from tests.support import servers
from tests.support.servers import Server, User

pytestmark = pytest.mark.one_server
PAGE = " ".join((servers.REPOSITORY / "TROUBLESHOOTING.md").read_text().split())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that takes collections of 3 MiB, and has one worker so that a held file is met at once."""
    folder = tmp_path_factory.mktemp("server") / "data"
    users = servers.make_users(20)
    small = {"MAX_SYNC_PAYLOAD_MEGS": "1", "ANKISYNCD_WORKERS": "1"}
    with servers.serving(servers.OURS, folder, users, small) as found:
        yield found


@pytest.fixture
def device(pool: Pool, tmp_path: Path) -> Iterator[Device]:
    made = Device(pool, NEWEST, tmp_path / "device")
    yield made
    made.end()


def explained(message: str) -> str:
    """The words of a message that the page has in quotes; fails if it has none of them."""
    words = " ".join(re.sub("[\u2068\u2069]", "", message).split())
    quoted = [text for text in re.findall(r'"([^"]+)"', PAGE) if text in words]
    assert quoted, f"TROUBLESHOOTING.md says nothing of: {words}"
    return max(quoted, key=len)


def failure(work: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as caught:
        work()
    return caught.value.message


class Answers(http.server.BaseHTTPRequestHandler):
    """A proxy that answers by itself."""

    status = 502

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(self.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def answering(status: int, certificate: Path | None = None) -> Iterator[str]:
    handler = type("Handler", (Answers,), {"status": status})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            found.socket = context.wrap_socket(found.socket, server_side=True)
        threading.Thread(target=found.serve_forever, daemon=True).start()
        scheme, host = ("https", "localhost") if certificate else ("http", "127.0.0.1")
        yield f"{scheme}://{host}:{found.server_port}/"
        found.shutdown()


USER = User("user1", "pass-1")


class TestTheWay:
    def test_nothing_listens(self, device: Device) -> None:
        message = failure(lambda: device.log_in(f"http://127.0.0.1:{servers.free_port()}/", USER))
        assert "error sending request for url" in explained(message)

    def test_a_name_that_is_not_found(self, device: Device) -> None:
        assert "error sending request for url" in explained(
            failure(lambda: device.log_in("http://sync.invalid/", USER))
        )

    def test_a_certificate_of_an_unknown_authority(self, device: Device, tmp_path: Path) -> None:
        with answering(200, self_signed(tmp_path / "certificate.pem")) as url:
            message = failure(lambda: device.log_in(url, USER))
        assert "error sending request for url" in explained(message)

    @pytest.mark.parametrize(
        ("status", "words"),
        [
            (502, "AnkiWeb encountered a problem. Please try again in a few minutes."),
            (504, "AnkiWeb encountered a problem. Please try again in a few minutes."),
            (404, "HTTP status client error (404 Not Found)"),
            (413, "HTTP status client error (413 Request Entity Too Large)"),
        ],
    )
    def test_a_proxy_answers_by_itself(self, device: Device, status: int, words: str) -> None:
        with answering(status) as url:
            assert explained(failure(lambda: device.log_in(url, USER))) == words

    @pytest.mark.slow
    def test_nothing_comes_back(self, device: Device) -> None:
        """The client itself waits for 30 seconds."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
            message = failure(lambda: device.log_in(url, USER))
        assert explained(message) == "Connection timed out. Please try again."


class TestLogins:
    def test_a_wrong_password_and_too_many_of_them(self, device: Device, server: Server) -> None:
        user = server.next_user()
        wrong = User(user.name, "wrong")
        assert explained(failure(lambda: device.log_in(server.url, wrong))) == (
            "Email or password was incorrect; please try again."
        )
        messages = {failure(lambda: device.log_in(server.url, wrong)) for _ in range(11)}
        (limited,) = (message for message in messages if "429" in message)
        assert explained(limited) == "HTTP status client error (429 Too Many Requests)"


class TestCollections:
    def test_counts_that_differ(self, device: Device, server: Server) -> None:
        device.log_in(server.url, server.next_user())
        device.add_notes([["one", "1"], ["two", "2"]])
        device.first_upload()
        device.add_notes([["three", "3"]])
        device.execute("delete from cards where id = (select min(id) from cards)")
        assert explained(failure(device.sync)).startswith("Please use the Check Database function")
        assert "sanity check of" in server.log
        assert "/collection failed" in server.log
        assert device.sync() == "full"

    def test_one_that_is_too_large(self, device: Device, server: Server) -> None:
        device.log_in(server.url, server.next_user())
        device.add_notes([[os.urandom(600_000).hex(), "1"] for _ in range(5)])
        device.sync()
        assert explained(failure(device.upload)) == "collection exceeds size limit"

    def test_one_that_is_corrupt(self, device: Device, server: Server) -> None:
        device.log_in(server.url, server.next_user())
        device.add_notes([["one", "1"]])
        device.sync()
        device.execute("update notes set flds = cast(flds as blob)")
        assert explained(failure(device.upload)).startswith("Your upload was corrupt.")


class TestFiles:
    def test_a_database_that_another_program_holds(self, device: Device, server: Server) -> None:
        device.log_in(server.url, server.next_user())
        device.add_notes([["one", "1"]])
        device.first_upload()
        device.settle()
        device.add_notes([["two", "2"]])
        holder = apsw.Connection(str(server.folder / "ankisyncd" / "heads.sqlite"))
        holder.execute("BEGIN EXCLUSIVE")
        assert "AnkiWeb encountered a problem" in explained(failure(device.sync))
        holder.execute("ROLLBACK")
        holder.close()
        assert "heads.sqlite: database is locked" in server.log
        device.settle()

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
    def test_a_database_of_another_owner(self, tmp_path: Path) -> None:
        """The owner's words at the start are in tests/app/cli/test_server.py."""
        path = tmp_path / "heads.sqlite"
        LocalHeadStore(path, run_inline).close()
        for part in (path, *tmp_path.glob("heads.sqlite-*")):
            part.chmod(0o444)
        for folder in (tmp_path, *list(tmp_path.parents)[:-2]):
            folder.chmod(0o755)
        os.seteuid(54321)
        try:
            with pytest.raises(StorageError) as caught:
                LocalHeadStore(path, run_inline)
        finally:
            os.seteuid(0)
        assert explained(str(caught.value)) == "attempt to write a readonly database"


def self_signed(path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    path.write_bytes(pem + key.private_bytes(serialization.Encoding.PEM, form, plain))
    return path
