"""One request and its answer, as WSGI has them: the environ, a counted body, an answer in one send."""

from __future__ import annotations

import functools
import re
import sys
import time
from email.utils import formatdate
from typing import Any

from gunicorn.http.body import LengthReader
from gunicorn.http.errors import NoMoreData, ParseException

from app.errors import ProtocolError
from app.http.server.connections import GRACE_S, LEAST_RATE

_SEND_BYTES = 64 * 1024


class BrokenBody(ProtocolError):
    """The connection ended, fell silent or broke HTTP's rules before the body's end."""


class CountedBody:
    """The body of one request (wsgi.input): knows how much was read, and whether all was."""

    def __init__(self, body: Any) -> None:
        reader = body.reader
        # A reader of a known length gives all that is asked for; gunicorn's body around it only buffers.
        self._known = reader if isinstance(reader, LengthReader) else None
        self._body = body if self._known is None else reader
        self.bytes_in = 0
        self.is_finished = self._has_nothing_left()

    def read(self, size: int = -1, /) -> bytes:
        """As a file's `read`.

        Raises: BrokenBody.
        """
        if size < 0:
            size = sys.maxsize
        try:
            block: bytes = self._body.read(size)
        except (NoMoreData, ParseException) as exc:
            raise BrokenBody(f"the body broke off: {type(exc).__name__}") from exc
        except OSError as exc:
            raise BrokenBody("the client fell silent, or closed the connection") from exc
        self.bytes_in += len(block)
        self.is_finished = len(block) < size or self._has_nothing_left()
        return block

    def _has_nothing_left(self) -> bool:
        return self._known is not None and self._known.length == 0


class ClientGone(Exception):
    """The client does not take its answer; the text says how."""


class OneSendResponse:
    """Keeps the head back until the first bytes of the body, so that both go out in one segment."""

    def __init__(self, req: Any, sock: Any) -> None:
        self._sock = sock
        self._is_head = req.method == "HEAD"
        self._is_old = req.version < (1, 1)
        self._must_close: bool = req.should_close()
        self._head = ""
        self._length: int | None = None
        self._is_chunked = False
        self._head_sent = False
        self._waited_s, self._went_bytes = 0.0, 0
        self.status_code = 0
        self.sent = 0

    def start_response(self, status: str, headers: list[tuple[str, str]], _error: Any = None) -> None:
        """As WSGI has it, without the `write` function, which is obsolete.

        Raises: ValueError for a header that would be two.
        """
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        if not _HEADERS.fullmatch(lines) or lines.count("\n") != len(headers):
            raise ValueError("a header of the answer is malformed")
        length = next((value for name, value in headers if name.lower() == "content-length"), None)
        self._length = None if length is None else int(length)
        self.status_code = int(status[:3])
        # An answer of unknown length ends with the connection where the client knows no chunks.
        self._is_chunked = self._length is None and not self._is_old and not self._is_head
        self._must_close |= self._length is None and self._is_old
        self._head = f"HTTP/{'1.0' if self._is_old else '1.1'} {status}\r\nServer: ankisyncd\r\n{lines}"

    def force_close(self) -> None:
        """Let the connection end with this answer."""
        self._must_close = True

    def should_close(self) -> bool:
        """Whether the connection ends with this answer."""
        return self._must_close

    def write(self, block: bytes) -> None:
        """Send a part of the body, never more than was promised.

        Raises: ClientGone.
        """
        if self._length is not None:
            block = block[: self._length - self.sent]
        if self._is_head:
            return
        self.sent += len(block)
        if self._is_chunked and block:
            block = b"".join((b"%x\r\n" % len(block), block, b"\r\n"))
        self._send(block)

    def close(self) -> None:
        """End the answer."""
        self._send(b"0\r\n\r\n" if self._is_chunked else b"")

    def _send(self, block: bytes) -> None:
        if not self._head_sent:
            self._head_sent = True
            connection = "close" if self._must_close else "keep-alive"
            framing = "Transfer-Encoding: chunked\r\n" if self._is_chunked else ""
            head = f"{self._head}Date: {_date(int(time.time()))}\r\nConnection: {connection}\r\n{framing}\r\n"
            block = head.encode("latin-1") + block
        if not block:
            return
        try:
            # `sendall` would ask for the size of the socket's buffer first, and has one timeout for all.
            sent = self._sock.send(block)
            self._went_bytes += sent
            if sent < len(block):
                self._send_rest(memoryview(block)[sent:])
        except OSError as exc:
            raise ClientGone(f"the client did not take the answer: {type(exc).__name__}") from exc

    def _send_rest(self, rest: memoryview) -> None:
        """Send what did not fit into the socket's buffer, at the least rate or faster.

        Raises: OSError, of it TimeoutError if the client takes too little.
        """
        while rest:
            if self._waited_s > GRACE_S + self._went_bytes / LEAST_RATE:
                raise TimeoutError("the client takes the answer too slowly")
            started_s = time.monotonic()
            sent = self._sock.send(rest[:_SEND_BYTES])
            self._waited_s += time.monotonic() - started_s
            self._went_bytes += sent
            rest = rest[sent:]


_HEADERS = re.compile(r"(?:[A-Za-z0-9-]+: [\t -~\x80-\xff]*\r\n)*")


@functools.lru_cache(maxsize=2)
def _date(now_s: int) -> str:
    return formatdate(now_s, usegmt=True)


def base_environ(server: Any, client: Any, *, is_multiprocess: bool) -> dict[str, Any]:
    """What all requests of a connection have in common, as WSGI names it."""
    # The listener of a Unix socket has a path for an address, or none.
    host, port = server[:2] if isinstance(server, tuple) else (server or "", "")
    address, client_port = client[:2] if isinstance(client, tuple) else (client or "", "")
    return {
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": is_multiprocess,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "SERVER_SOFTWARE": "ankisyncd",
        "SERVER_NAME": str(host),
        "SERVER_PORT": str(port),
        "SCRIPT_NAME": "",
        "REMOTE_ADDR": str(address),
        "REMOTE_PORT": str(client_port),
    }


def environ_of(base: dict[str, Any], req: Any, body: CountedBody) -> dict[str, Any]:
    """The environ of one request. A header that comes twice is joined; gunicorn lets no `_` into a name."""
    environ = base.copy()
    environ["wsgi.input"] = body
    environ["REQUEST_METHOD"] = req.method
    environ["QUERY_STRING"] = req.query
    environ["RAW_URI"] = req.uri
    environ["SERVER_PROTOCOL"] = f"HTTP/{req.version[0]}.{req.version[1]}"
    # As it came: a percent sign is part of no path of ours, and what is in front of us matches paths as well.
    environ["PATH_INFO"] = req.path
    for name, value in req.headers:
        key = _OWN_NAMES.get(name) or "HTTP_" + name.replace("-", "_")
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ


_OWN_NAMES = {"CONTENT-TYPE": "CONTENT_TYPE", "CONTENT-LENGTH": "CONTENT_LENGTH"}
