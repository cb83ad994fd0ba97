"""The proxies of `docker/`, run for real in front of any upstream on this machine."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.docker.debian import program
from tests.support.servers import free_port
from tests.support.waiting import wait_for_port

DOCKER = Path(__file__).parents[2] / "docker"


@dataclass(frozen=True)
class Certificates:
    """A server's certificate for localhost, and the authority that a client has to trust."""

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class Proxy:
    port: int
    certificates: Certificates

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/"

    def connect(self, timeout_s: float = 30) -> ssl.SSLSocket:
        trusting = ssl.create_default_context(cafile=str(self.certificates.authority))
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)
        return trusting.wrap_socket(raw, server_hostname="localhost")


def issue(folder: Path) -> Certificates:
    """An authority of the test's own, and a certificate that it signed."""
    ours, theirs = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _signed("the tests' authority", ours, "the tests' authority", ours, is_authority=True)
    leaf = _signed("localhost", theirs, "the tests' authority", ours, is_authority=False)
    found = Certificates(folder / "authority.pem", folder / "cert.pem", folder / "key.pem")
    pem = serialization.Encoding.PEM
    found.authority.write_bytes(root.public_bytes(pem))
    found.certificate.write_bytes(leaf.public_bytes(pem) + root.public_bytes(pem))
    found.key.write_bytes(
        theirs.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return found


def _signed(name: str, key, issuer: str, issuer_key, *, is_authority: bool) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if not is_authority:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


@contextlib.contextmanager
def nginx(folder: Path, upstream_port: int) -> Iterator[Proxy]:
    """nginx with `docker/nginx.conf`, its variables filled in as envsubst would."""
    binary = program("nginx", "usr/sbin/nginx", "nginx", "nginx-common")
    certificates, port = issue(folder), free_port()
    values = {
        "ANKISYNCD_DOMAIN": "localhost",
        "ANKISYNCD_UPSTREAM": f"127.0.0.1:{upstream_port}",
        "TLS_CERTIFICATE": str(certificates.certificate),
        "TLS_KEY": str(certificates.key),
        "TLS_PORT": f"127.0.0.1:{port}",
    }
    text = (DOCKER / "nginx.conf").read_text().replace("/tmp/", f"{folder}/")
    config = folder / "nginx.conf"
    config.write_text(re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], text))
    arguments = ["-p", str(folder), "-c", str(config), "-e", "/dev/stderr"]
    subprocess.run([binary, *arguments, "-t"], check=True, capture_output=True, timeout=30)
    with _running([binary, *arguments, "-g", "daemon off;"], {}, folder / "nginx.log", port):
        yield Proxy(port, certificates)


@dataclass(frozen=True)
class Caddy(Proxy):
    """Caddy with `docker/Caddyfile`, as the stacks run it."""

    folder: Path
    environment: dict[str, str]

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What `docker compose exec tls caddy ...` does. Paths inside the container are given as there."""
        given = [self.inside(word) for word in words]
        return subprocess.run(
            [caddy_program(), *given], env=self.environment, capture_output=True, text=True, timeout=60
        )

    def inside(self, word: str) -> str:
        for path, here in (
            ("/etc/caddy/", f"{self.folder}/"),
            ("/config/", f"{self.folder}/"),
            ("/tls/", f"{self.folder}/"),
        ):
            word = word.replace(path, here)
        return word


def caddy_program() -> str:
    return program("caddy", "usr/bin/caddy", "caddy")


def prepare_caddy(folder: Path, upstream_port: int, mode: str, domain: str = "localhost") -> Caddy:
    """All but the process: `docker/Caddyfile` on ports of its own, and a certificate as `up` installs it."""
    certificates = issue(folder)
    install(folder, certificates)
    port = free_port()
    environment = {
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder / "data"),
        "ANKISYNCD_DOMAIN": domain,
        "ANKISYNCD_UPSTREAM": f"127.0.0.1:{upstream_port}",
        "HTTP_PORT": str(free_port()),
        "HTTPS_PORT": str(port),
        "TLS_MODE": mode,
        "ACME_EMAIL": '""',  # as compose.tls.yaml has it
    }
    found = Caddy(port, certificates, folder, environment)
    text = (DOCKER / "Caddyfile").read_text()
    assert text.count("\n{\n") == 1
    text = text.replace("\n{\n", "\n{\n\tdefault_bind 127.0.0.1\n")
    (folder / "Caddyfile").write_text(found.inside(text))
    return found


def install(folder: Path, certificates: Certificates) -> None:
    """What `up --given` does: certificate and key in one file, which is replaced at once."""
    new = folder / "new.pem"
    new.touch(mode=0o600)
    new.write_bytes(certificates.certificate.read_bytes() + b"\n" + certificates.key.read_bytes())
    new.rename(folder / "certificate.pem")


@contextlib.contextmanager
def run_caddy(proxy: Caddy, *wrapper: str) -> Iterator[Caddy]:
    """The process; `wrapper` is a command that runs it with other rights."""
    command = [
        *wrapper,
        caddy_program(),
        "run",
        "--config",
        str(proxy.folder / "Caddyfile"),
        "--adapter",
        "caddyfile",
    ]
    with _running(command, proxy.environment, proxy.folder / "caddy.log", proxy.port):
        yield proxy


@contextlib.contextmanager
def caddy(folder: Path, upstream_port: int) -> Iterator[Proxy]:
    """Caddy with a certificate that is given."""
    with run_caddy(prepare_caddy(folder, upstream_port, "given")) as proxy:
        yield proxy


PROXIES = {"nginx": nginx, "caddy": caddy}


@contextlib.contextmanager
def _running(command: list[str], environment: dict[str, str], log: Path, port: int) -> Iterator[None]:
    with (
        log.open("wb") as file,
        subprocess.Popen(command, env=environment, stdout=file, stderr=file) as process,
    ):
        try:
            wait_for_port(port, process, log.read_text)
            yield
        finally:
            process.terminate()
            process.wait(timeout=20)
