"""Signed HTTP requests to AWS over a pool of connections, for a tenth of the CPU that the SDK needs.

Used by `storage.awsclient` only. It makes one attempt per request and raises the SDK's exceptions; retries
are left to the SDK.
"""

from __future__ import annotations

import hmac
import http.client
import socket
import ssl
import time
import weakref
from collections import deque
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final, NamedTuple

from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
    SSLError,
)
from botocore.httpsession import create_urllib3_context, get_cert_path
from urllib3.util.wait import wait_for_read

_CHECKED_AFTER_S: Final = 1.0
"""A connection that was idle for longer is checked before use, as the server may have closed it."""

_IDLE_S: Final = 60.0
"""A connection idle for longer is closed when another one becomes idle."""

Headers = dict[str, str]


class Answer(NamedTuple):
    """A complete answer. Header names are case-insensitive."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Tls(NamedTuple):
    """The SDK's TLS settings `verify` and `client_cert`."""

    verify: bool | str
    certificate: str | None
    key: str | None

    def context(self) -> ssl.SSLContext:
        """A context like the one of the SDK's own connections."""
        context: ssl.SSLContext = create_urllib3_context()
        if self.verify:
            context.load_verify_locations(get_cert_path(self.verify))
            context.verify_mode = ssl.CERT_REQUIRED
            context.check_hostname = True
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate:
            context.load_cert_chain(self.certificate, self.key)
        return context


class Connections:
    """A pool of connections to one host, for threads or greenlets.

    Opens as many connections as there are concurrent requests; keeps up to `most` of them for later requests.
    """

    def __init__(  # noqa: PLR0913 - by name
        self,
        hostname: str,
        port: int,
        tls: Tls | None,
        *,
        connect_timeout_s: float,
        read_timeout_s: float,
        most: int,
    ) -> None:
        self._hostname, self._port = hostname, port
        self._tls = tls and tls.context()
        self._url = f"{'https' if tls else 'http'}://{hostname}:{port}/"
        self._connect_timeout_s, self._read_timeout_s = connect_timeout_s, read_timeout_s
        self._idle: deque[tuple[socket.socket, float]] = deque()
        self._most = most
        weakref.finalize(self, _close, self._idle)

    def send(self, method: str, head: bytes, body: bytes) -> Answer:
        """Send one request, and read the complete answer.

        Raises: subclasses of BotoCoreError, as the SDK's own HTTP session does.
        """
        try:
            connection = self._take() or self._connect()
        except TimeoutError as exc:
            raise ConnectTimeoutError(endpoint_url=self._url, error=exc) from exc
        except ssl.SSLError as exc:
            raise SSLError(endpoint_url=self._url, error=exc) from exc
        except OSError as exc:
            raise EndpointConnectionError(endpoint_url=self._url, error=exc) from exc
        # Set only after a complete answer.
        keep = False
        try:
            # A small request is sent as one packet; a large body is not copied for that.
            if len(body) <= _ONE_PACKET_BYTES:
                connection.sendall(head + body)
            else:
                connection.sendall(head)
                connection.sendall(body)
            answer, keep = _read_answer(connection, method)
        except TimeoutError as exc:
            raise ReadTimeoutError(endpoint_url=self._url, error=exc) from exc
        except (ConnectionError, http.client.RemoteDisconnected) as exc:
            raise ConnectionClosedError(endpoint_url=self._url, error=exc) from exc
        except (OSError, http.client.HTTPException) as exc:
            raise HTTPClientError(error=exc) from exc
        finally:
            # Also if the greenlet is killed: the rest of an answer must not be read by the next request.
            if keep and len(self._idle) < self._most:
                self._keep(connection)
            else:
                connection.close()
        return answer

    def _keep(self, connection: socket.socket) -> None:
        """Put a connection into the pool, and close those that were idle for too long."""
        now_s = time.monotonic()
        with suppress(IndexError):  # another thread was faster
            while self._idle and now_s - self._idle[0][1] > _IDLE_S:
                self._idle.popleft()[0].close()
        self._idle.append((connection, now_s))

    def _take(self) -> socket.socket | None:
        """The connection used last, or None; so the ones that are not needed reach their idle limit."""
        while self._idle:
            try:
                connection, since_s = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            # Data on an idle connection can only be the server's close.
            if time.monotonic() - since_s < _CHECKED_AFTER_S or not wait_for_read(connection, timeout=0):
                return connection
            connection.close()
        return None

    def _connect(self) -> socket.socket:
        connection = socket.create_connection((self._hostname, self._port), self._connect_timeout_s)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_hostname=self._hostname)
            connection.settimeout(self._read_timeout_s)
        except BaseException:
            connection.close()
            raise
        return connection


_ONE_PACKET_BYTES: Final = 64 << 10


def _close(idle: deque[tuple[socket.socket, float]]) -> None:
    for connection, _ in idle:
        connection.close()


def _read_answer(connection: socket.socket, method: str) -> tuple[Answer, bool]:
    """(answer, whether the connection can be used again)."""
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        body = response.read()
        return Answer(response.status, response.headers, body), not response.will_close
    finally:
        response.close()


class Signer:
    """AWS Signature Version 4 for one service in one region.

    Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """

    def __init__(self, service: str, region: str) -> None:
        self._service, self._region = service, region
        self._key: tuple[tuple[str, str], bytes] = (("", ""), b"")

    def sign(self, credentials: Any, method: str, path: str, headers: Headers, payload_sha256: str) -> None:
        """Add the date, token and signature headers.

        `headers` are those to be signed, by lower-case names; `path` is percent-encoded and without a query.
        `credentials` are the SDK's.
        """
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        headers["x-amz-date"] = now
        if credentials.token:
            headers["x-amz-security-token"] = credentials.token
        ordered = sorted(headers.items())
        # The canonical request: method, path, query, headers, names of signed headers, hash of the body.
        names = ";".join([name for name, _ in ordered])
        lines = "".join([f"{name}:{value}\n" for name, value in ordered])
        request = f"{method}\n{path}\n\n{lines}\n{names}\n{payload_sha256}"
        scope = f"{now[:8]}/{self._region}/{self._service}/aws4_request"
        told = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._key_of(credentials.secret_key, now[:8]), told.encode(), "sha256").hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )

    def _key_of(self, secret: str, day: str) -> bytes:
        """The signing key, derived once per day and secret. No lock: the tuple is replaced as a whole."""
        of, key = self._key
        if of != (secret, day):
            # HMAC chain: secret, day, region, service, constant.
            key = b"AWS4" + secret.encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = ((secret, day), key)
        return key
