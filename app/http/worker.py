"""The gevent worker of gunicorn, fitted to sync clients.

One send per small answer; bodies that are counted, and end the connection when they are not read;
limits to connections and to slow clients (`app.http.connections`); one line per request.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import re
import signal
import socket
import sys
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import gevent
from gunicorn.glogging import Logger
from gunicorn.http.body import LengthReader
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.util import close
from gunicorn.workers.ggevent import GeventWorker

from app.errors import ProtocolError
from app.http.accesslog import ENTRY_KEY, AccessLog, Entry
from app.http.chunks import body_of
from app.http.connections import (
    GRACE_S,
    HEAD_S,
    LEAST_RATE,
    Connection,
    ConnectionLimits,
    ConnectionReader,
    ConnectionTable,
    OtherProtocol,
    address_of,
)
from app.http.head import HeadReader
from app.http.paths import canonical_path
from app.http.requestid import current_id, request_id

_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})

_IDLE_CHECK_S = 1
_STOP_CHECK_S = 0.05

_SEND_BYTES = 64 * 1024

_ROOM_LOG_S = 60

_ALWAYS_ANSWERED = frozenset({"/health", "/metrics"})
"""Above the limit of connections too: what happens then is to be seen."""

_LINGER_S = 5
_LINGER_BYTES = 64 * 1024 * 1024
_LINGER_BLOCK_BYTES = 256 * 1024


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
        """As WSGI has it, but for the function that nobody calls any more.

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


class SyncWorker(GeventWorker):  # type: ignore[misc]
    """One process: greenlets for connections, the monkey patch (in `init_process`), the stop."""

    limits: ConnectionLimits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = ConnectionTable(self.limits, self._end_soon)

    def init_signals(self) -> None:
        """As gunicorn's, but for the signals of a terminal, which would end the process."""
        super().init_signals()
        ignore_terminal_signals()

    def run(self) -> None:
        """Serve until told to stop."""
        gevent.spawn(self._end_overdue)
        gevent.spawn(self._log_closed)
        super().run()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: running requests are finished, connections without one are closed."""
        super().handle_exit(sig, frame)
        gevent.spawn(self._end_overdue)

    def _end_overdue(self) -> None:
        """One for all connections: a timer for each request would cost as much as reading it."""
        while True:
            for connection in self._table.overdue(all_waiting=not self.alive):
                self._end_soon(connection)
            gevent.sleep(_IDLE_CHECK_S if self.alive else _STOP_CHECK_S)

    def _log_closed(self) -> None:
        told = 0
        while True:
            gevent.sleep(_ROOM_LOG_S)
            if self._table.closed_for_room > told:
                self.log.warning(
                    "%s connections were closed to make room for others (%s are open, at most %s)",
                    self._table.closed_for_room - told,
                    len(self._table),
                    self.limits.most,
                )
                told = self._table.closed_for_room

    def _end_soon(self, connection: Connection) -> None:
        gevent.get_hub().loop.run_callback(_end, connection)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection."""
        req = None
        connection = Connection(address_of(addr), gevent.getcurrent())
        reader = ConnectionReader(client, connection, self._table)
        heads = HeadReader(self.cfg, reader, addr)
        base = base_environ(listener.getsockname(), addr, is_multiprocess=self.cfg.workers > 1)
        self._table.enter(connection)
        wait_s = HEAD_S
        try:
            while True:
                req = None
                req = self._next(heads, reader, connection, wait_s)
                if connection.refusal and canonical_path(req.path) not in _ALWAYS_ANSWERED:
                    self._refuse(connection, client, addr, 503, connection.refusal)
                    break
                connection.entry = Entry()
                self.handle_request(base, req, client, connection)
                self._table.settle(connection)
                if connection.refusal:
                    break
                wait_s = self.cfg.keepalive
        except (StopIteration, NoMoreData):
            pass
        except _Ended:
            self._log_ended(connection, addr)
        except ParseException as exc:
            self._refuse(
                connection,
                client,
                addr,
                400,
                exc.name if isinstance(exc, OtherProtocol) else type(exc).__name__,
            )
        except OSError as exc:
            if exc.errno not in _GONE:
                self.log.exception("a connection failed")
        except Exception as exc:  # noqa: BLE001 - a bug
            self.handle_error(req, client, addr, exc)
        finally:
            self._table.leave(connection)
            close(client)

    def _next(
        self, heads: HeadReader, reader: ConnectionReader, connection: Connection, wait_s: float
    ) -> Any:
        current_id.set("")
        reader.begin_head()
        self._table.wait(connection, wait_s)
        try:
            return heads.read()
        finally:
            self._table.resume(connection)
            reader.begin_body()

    def handle_request(self, base: dict[str, Any], req: Any, sock: Any, connection: Connection) -> None:
        """Serve one request.

        Raises: StopIteration, where the connection must not be used any more.
        """
        started = time.perf_counter()
        entry = connection.entry
        body = CountedBody(body_of(req))
        environ = environ_of(base, req, body)
        environ[ENTRY_KEY] = entry
        entry.id = request_id(environ)
        current_id.set(entry.id)
        if req._expected_100_continue:  # noqa: SLF001 - its only name
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        response = OneSendResponse(req, sock)
        blocks = self.wsgi(environ, response.start_response)
        if not (body.is_finished and self.alive):
            response.force_close()
        is_cut = True
        try:
            for block in blocks:
                response.write(block)
            response.close()
            is_cut = False
        except ClientGone as exc:
            entry.reason = str(exc)
        except Exception as exc:
            entry.reason = f"the answer broke off: {type(exc).__name__}"
            self.log.exception("an answer broke off")
        finally:
            self._close(blocks)
            entry.ms = (time.perf_counter() - started) * 1000
            entry.bytes_in, entry.bytes_out = body.bytes_in, response.sent
            self._log_request(entry, environ, response.status_code)
        if is_cut:
            _cut(sock)
        elif not body.is_finished:
            self._linger(connection, sock)
        if is_cut or response.should_close():
            raise StopIteration

    def _close(self, blocks: Any) -> None:
        """Let the answer's files go; the client has got it, or has not, whatever happens here."""
        try:
            if hasattr(blocks, "close"):
                blocks.close()
        except Exception:
            self.log.exception("an answer could not be closed")

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer a fault outside of the application."""
        del req, addr
        self.log.error("a connection failed", exc_info=exc)
        with contextlib.suppress(OSError):
            client.sendall(_short_answer(500))

    def _log_ended(self, connection: Connection, addr: Any) -> None:
        """A line for a request that was ended before it had an answer."""
        entry = connection.entry
        if entry.method and not entry.status:
            entry.address = entry.address or (str(addr[0]) if addr else "")
            entry.status, entry.reason = 408, "closed to make room for other connections"
            self.log.entry(entry)

    def _refuse(self, connection: Connection, client: Any, addr: Any, status: int, reason: str) -> None:
        """Answer what does not reach the application; says nothing of its content."""
        address = str(addr[0]) if addr else ""
        entry = Entry(address=address, method="-", status=status, reason=reason, id=request_id({}))
        self.log.entry(entry)
        with contextlib.suppress(OSError):
            client.sendall(_short_answer(status))
            self._linger(connection, client)

    def _linger(self, connection: Connection, client: Any) -> None:
        """Take what a client still sends, for a while; ended early if other connections need the room.

        Closing at once would reset the connection, and the client might lose the answer that tells why.
        """
        connection.is_lingering = True
        self._table.wait(connection, _LINGER_S)
        try:
            with contextlib.suppress(OSError, _Ended):
                client.settimeout(_LINGER_S)
                client.shutdown(socket.SHUT_WR)
                taken_bytes = 0
                while taken_bytes < _LINGER_BYTES and (block := client.recv(_LINGER_BLOCK_BYTES)):
                    taken_bytes += len(block)
        finally:
            self._table.resume(connection)

    def _log_request(self, entry: Entry, environ: dict[str, Any], status: int) -> None:
        entry.status = status
        entry.method = entry.method or f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        entry.address = entry.address or environ["REMOTE_ADDR"]
        self.log.entry(entry)


class _Ended(BaseException):
    """The time of a connection is up, it has to make room, or the server stops."""


def _end(connection: Connection) -> None:
    """In the event loop: a request that has come meanwhile is served."""
    if connection.is_waiting or connection.is_receiving:
        connection.greenlet.throw(_Ended)


def ignore_terminal_signals() -> None:
    """Let a terminal that is closed, or that stops output of the background, end or restart nothing."""
    for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)


def sync_worker(connection_limits: ConnectionLimits) -> type[SyncWorker]:
    """The class of worker for these limits; gunicorn takes a class, so they are bound here."""

    class BoundWorker(SyncWorker):
        limits = connection_limits

    return BoundWorker


def _short_answer(status: int) -> bytes:
    retry = "Retry-After: 5\r\n" if status == 503 else ""
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\n{retry}"
    return f"{head}Content-Type: text/plain\r\nContent-Length: 3\r\n\r\n{status}".encode()


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


def _cut(sock: Any) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


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
