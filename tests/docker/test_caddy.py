"""Where Caddy's certificate comes from: a file that is renewed, an authority of its own, a public one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import time
from pathlib import Path

import pytest

from tests.docker.compose import DOCKER, merged
from tests.docker.proxies import Caddy, install, issue, prepare_caddy, run_caddy
from tests.docker.test_proxies import Upstream, read_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
OWNER = 1000
REQUEST = b"POST /sync/upload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\na"


@pytest.fixture
def upstream():
    upstream = Upstream()
    yield upstream
    upstream.close()


def rights(stack: str) -> list[str]:
    """The command that runs another one as root with no rights but those of `tls` in a stack."""
    if os.geteuid():
        pytest.skip("only root can give rights up one by one")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not on this machine")
    service = merged(DOCKER, COMPOSE_FILE=stack, ANKISYNCD_DOMAIN="localhost")["services"]["tls"]
    assert service["cap_drop"] == ["ALL"]
    kept = ",".join(f"+{name.lower()}" for name in service["cap_add"])
    return ["setpriv", "--no-new-privs", f"--bounding-set=-all,{kept}", "--inh-caps=-all"]


def serial(proxy: Caddy) -> int:
    """Of the certificate that is served."""
    with proxy.connect() as client:
        return int(client.getpeercert()["serialNumber"], 16)


def taken_up(proxy: Caddy) -> None:
    """The command with which `up` ends when it has installed a certificate."""
    text = (DOCKER / "up").read_text().replace("\\\n", " ")
    command = re.search(r"exec -T tls caddy (reload .*)", text)
    assert command is not None
    done = proxy.command(*command[1].split())
    assert done.returncode == 0, done.stderr


def test_a_key_that_only_its_owner_may_read_is_read(tmp_path, upstream):
    proxy = prepare_caddy(tmp_path, upstream.port, "given")
    key = tmp_path / "certificate.pem"
    stack = "compose.yaml:compose.tls.yaml:compose.given.yaml"
    os.chown(key, OWNER, OWNER) if not os.geteuid() else None
    assert key.stat().st_mode & 0o777 == 0o600
    with run_caddy(proxy, *rights(stack)):
        assert serial(proxy)


def test_without_that_right_it_is_not(tmp_path, upstream):
    """So the test above can fail."""
    proxy = prepare_caddy(tmp_path, upstream.port, "given")
    wrapper = rights("compose.yaml:compose.tls.yaml")
    os.chown(tmp_path / "certificate.pem", OWNER, OWNER)
    with pytest.raises(AssertionError, match="permission denied"), run_caddy(proxy, *wrapper):
        pass


def test_a_renewed_certificate_is_taken_up_and_a_running_upload_goes_on(tmp_path, upstream):
    proxy = prepare_caddy(tmp_path, upstream.port, "given")
    with run_caddy(proxy):
        before = serial(proxy)
        with proxy.connect() as client:
            client.sendall(REQUEST)
            with contextlib.closing(upstream.accept()) as server:
                read_until(server, b"\r\n\r\na")
                (tmp_path / "renewed").mkdir()
                renewed = issue(tmp_path / "renewed")
                install(tmp_path, renewed)
                taken_up(proxy)
                after = serial(Caddy(proxy.port, renewed, proxy.folder, proxy.environment))
                assert after != before
                client.sendall(b"b")
                read_until(server, b"b")
                server.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK")
                assert read_until(client, b"\r\n\r\nOK").startswith(b"HTTP/1.1 200")


def test_a_certificate_whose_key_is_another_does_not_pass_the_check_of_up(tmp_path, upstream):
    proxy = prepare_caddy(tmp_path, upstream.port, "given")
    check = ["validate", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]
    assert proxy.command(*check).returncode == 0
    (tmp_path / "other").mkdir()
    other = issue(tmp_path / "other")
    mixed = proxy.certificates.certificate.read_bytes() + other.key.read_bytes()
    (tmp_path / "certificate.pem").write_bytes(mixed)
    done = proxy.command(*check)
    assert done.returncode != 0
    assert "private key does not match public key" in done.stderr


@pytest.mark.parametrize("domain", ["127.0.0.1", "localhost"])
def test_a_certificate_of_its_own_is_for_the_address_or_the_name(tmp_path, upstream, domain):
    """A client that calls an address names nothing in its handshake (RFC 6066, section 3)."""
    proxy = prepare_caddy(tmp_path, upstream.port, "internal", domain)
    with run_caddy(proxy), handshake(proxy, domain) as client:
        client.sendall(REQUEST.replace(b"localhost", domain.encode()) + b"b")
        with contextlib.closing(upstream.accept()) as server:
            read_until(server, b"ab")


def handshake(proxy: Caddy, domain: str) -> ssl.SSLSocket:
    """A connection that trusts Caddy's authority; Caddy signs beside listening, so it may take a moment."""
    deadline = time.monotonic() + 30
    while True:
        raw = socket.create_connection(("127.0.0.1", proxy.port), timeout=30)
        try:
            trusting = ssl.create_default_context(cafile=str(authority(proxy)))
            return trusting.wrap_socket(raw, server_hostname=domain)
        except (ssl.SSLError, FileNotFoundError):
            raw.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def authority(proxy: Caddy) -> Path:
    """Where `up` copies it from."""
    inside = re.search(r"cp tls:/data/(\S+)", (DOCKER / "up").read_text())
    assert inside is not None
    return proxy.folder / "data" / inside[1]


@pytest.mark.parametrize(("email", "wanted"), [('""', ""), ("ops@example.com", "ops@example.com")])
def test_the_public_authority_is_given_the_mail_address(tmp_path, email, wanted):
    proxy = prepare_caddy(tmp_path, 1, "automatic", "sync.example.com")
    proxy.environment["ACME_EMAIL"] = email
    done = proxy.command("adapt", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile")
    assert done.returncode == 0, done.stderr
    policies = json.loads(done.stdout)["apps"].get("tls", {}).get("automation", {}).get("policies", [])
    found = {issuer.get("email", "") for policy in policies for issuer in policy.get("issuers", [])}
    assert found <= {wanted}
    assert (wanted in found) or not wanted
