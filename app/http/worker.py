"""The gevent worker of gunicorn, fitted to sync clients.

One send per small answer; bodies that are counted, and end the connection when they are not read;
a limit to silence; idle connections that do not hold up a stop; one line per request.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

import gevent
from gunicorn.glogging import Logger
from gunicorn.http import wsgi
from gunicorn.http.body import LengthReader
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.workers.ggevent import GeventWorker

from app.errors import ProtocolError
from app.http.accesslog import AccessLog, Entry, entry_of
from app.http.chunks import body_of

SILENCE_S = 90
"""A client that neither sends nor takes a byte for so long is gone; Anki's give up after 30 s."""

_LINGER_S = 5
_LINGER_BYTES = 64 * 1024 * 1024
_LINGER_BLOCK_BYTES = 256 * 1024


class BrokenBody(ProtocolError):
    """The connection ended, fell silent or broke HTTP's rules before the body's end."""


class CountedBody:
    """The body of one request (wsgi.input): knows how much was read, and whether all was."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self.bytes_in = 0
        self.is_finished = self._has_nothing_left()

    def read(self, size: int = -1, /) -> bytes:
        """As a file's `read`.

        Raises: BrokenBody.
        """
        try:
            block: bytes = self._body.read(size)
        except (NoMoreData, ParseException) as exc:
            raise BrokenBody(f"the body broke off: {type(exc).__name__}") from exc
        except OSError as exc:
            raise BrokenBody("the client fell silent, or closed the connection") from exc
        self.bytes_in += len(block)
        self.is_finished = len(block) < size or size < 0 or self._has_nothing_left()
        return block

    def _has_nothing_left(self) -> bool:
        reader = self._body.reader
        return isinstance(reader, LengthReader) and reader.length == 0 and not self._body.buf.tell()


class OneSendResponse(wsgi.Response):  # type: ignore[misc]
    """Keeps the head back until the first bytes of the body, so that both go out in one segment."""

    _head = b""
    headers_sent: bool

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.version = "ankisyncd"

    def send_headers(self) -> None:
        """Make the head ready; `_emit_body` or `close` sends it."""
        if self.headers_sent:
            return
        lines = [*self.default_headers(), *(f"{name}: {value}\r\n" for name, value in self.headers), "\r\n"]
        self._head = "".join(lines).encode("latin-1")
        self.headers_sent = True

    def close(self) -> None:
        """End the answer."""
        self.send_headers()
        self._send(b"0\r\n\r\n" if self.chunked else b"")

    def _emit_body(self, block: bytes) -> None:
        self._send(b"".join((b"%x\r\n" % len(block), block, b"\r\n")) if self.chunked else block)

    def _send(self, block: bytes) -> None:
        head, self._head = self._head, b""
        if head or block:
            self.sock.sendall(head + block if head else block)


class SyncWorker(GeventWorker):  # type: ignore[misc]
    """One process: greenlets for connections, the monkey patch (in `init_process`), the stop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: set[_IdleWait] = set()

    def timeout_ctx(self) -> _IdleWait:
        """Around the wait for the next request of a connection."""
        return _IdleWait(self.cfg.keepalive, self._idle)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: running requests are finished, connections without one are closed."""
        super().handle_exit(sig, frame)
        gevent.spawn(self._close_idle)

    def _close_idle(self) -> None:
        while True:
            for wait in tuple(self._idle):
                wait.end()
            gevent.sleep(0.05)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection."""
        client.settimeout(SILENCE_S)
        super(GeventWorker, self).handle(listener, client, addr)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> bool:
        """Serve one request.

        Raises: StopIteration, where the connection must not be used any more.
        """
        started = time.perf_counter()
        body = req.body = CountedBody(body_of(req))
        response, environ = wsgi.create(
            req, sock, addr, listener_name, self.cfg, response_class=OneSendResponse
        )
        blocks = self.wsgi(environ, response.start_response)
        if not (body.is_finished and self.alive):
            response.force_close()
        is_cut = True
        try:
            for block in blocks:
                response.write(block)
            response.close()
            is_cut = False
        except OSError as exc:
            entry_of(environ).reason = f"the client did not take the answer: {type(exc).__name__}"
        except Exception:
            self.log.exception("an answer broke off")
        finally:
            if hasattr(blocks, "close"):
                blocks.close()
            entry = entry_of(environ)
            entry.ms = (time.perf_counter() - started) * 1000
            entry.bytes_in, entry.bytes_out = body.bytes_in, response.sent
            self._log_request(entry, environ, response.status_code)
        if is_cut:
            _cut(sock)
        elif not body.is_finished:
            _linger(sock)
        if is_cut or response.should_close():
            raise StopIteration
        return True

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what is no HTTP, or a fault outside of the application; says nothing of its content."""
        del req
        if isinstance(exc, ParseException):
            entry = Entry(
                address=str(addr[0]) if addr else "", method="-", status=400, reason=type(exc).__name__
            )
            self.log.entry(entry)
            status, phrase = 400, "Bad Request"
        else:
            self.log.error("a connection failed", exc_info=exc)
            status, phrase = 500, "Internal Server Error"
        with contextlib.suppress(OSError):
            head = f"HTTP/1.1 {status} {phrase}\r\nConnection: close\r\nContent-Type: text/plain\r\n"
            client.sendall(f"{head}Content-Length: 3\r\n\r\n{status}".encode())
            _linger(client)

    def _log_request(self, entry: Entry, environ: dict[str, Any], status: int) -> None:
        entry.status = status
        entry.method = entry.method or f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        entry.address = entry.address or environ["REMOTE_ADDR"]
        self.log.entry(entry)


class _IdleWait:
    """The wait of a connection for its next request; ends silently when its time is up, or by `end`."""

    def __init__(self, seconds: float, waits: set[_IdleWait]) -> None:
        self._seconds = seconds
        self._waits = waits
        self._greenlet = gevent.getcurrent()

    def __enter__(self) -> None:
        self._waits.add(self)
        self._timeout = gevent.Timeout.start_new(self._seconds)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        self._waits.discard(self)
        self._timeout.close()
        return error is self._timeout or isinstance(error, TimeoutError)

    def end(self) -> None:
        """Let the greenlet go on as if the time were up, unless a request comes first."""
        gevent.get_hub().loop.run_callback(self._wake)

    def _wake(self) -> None:
        if self in self._waits:
            self._greenlet.throw(self._timeout)


def _cut(sock: Any) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _linger(sock: Any) -> None:
    """Take what a client still sends, for a while.

    Closing at once would reset the connection, and the client might lose the answer that tells why.
    """
    with contextlib.suppress(OSError), gevent.Timeout(_LINGER_S, False):  # noqa: FBT003
        sock.shutdown(socket.SHUT_WR)
        taken_bytes = 0
        while taken_bytes < _LINGER_BYTES and (block := sock.recv(_LINGER_BLOCK_BYTES)):
            taken_bytes += len(block)


class ServerLog(Logger):  # type: ignore[misc]
    """gunicorn's own messages go where all others go; its access line is replaced by ours."""

    lines: AccessLog

    def setup(self, cfg: Any) -> None:
        """Leave handlers and levels to `configure_logging`."""
        self.cfg = cfg
        self._access_log_enabled = False
        self.error_log.propagate = True

    def entry(self, entry: Entry) -> None:
        """Write the line of one request."""
        self.lines.write(entry)


def server_log(access_log: AccessLog) -> type[ServerLog]:
    """The class that gunicorn makes its logger of; it takes a class, so the collaborator is bound here."""

    class BoundLog(ServerLog):
        lines = access_log

    return BoundLog
