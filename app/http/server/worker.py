"""The gevent worker of gunicorn, fitted to sync clients.

One send per small answer; bodies that are counted, and end the connection when they are not read;
limits to connections and to slow clients (`app.http.server.connections`); one line per request.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import signal
import socket
import time
from http import HTTPStatus
from typing import Any

import gevent
from gunicorn.glogging import Logger
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.message import Request
from gunicorn.util import close
from gunicorn.workers.ggevent import GeventWorker

from app.http.accesslog import ENTRY_KEY, AccessLog, Entry
from app.http.paths import canonical_path
from app.http.requestid import current_id, request_id
from app.http.server.chunks import body_of
from app.http.server.connections import (
    HEAD_S,
    Connection,
    ConnectionLimits,
    ConnectionReader,
    ConnectionTable,
    OtherProtocol,
    address_of,
)
from app.http.server.exchange import ClientGone, CountedBody, OneSendResponse, base_environ, environ_of

_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})

_IDLE_CHECK_S = 1
_STOP_CHECK_S = 0.05

_ROOM_LOG_S = 60

_ALWAYS_ANSWERED = frozenset({"/health", "/metrics"})
"""Above the limit of connections too: what happens then is to be seen."""

_LINGER_S = 5
_LINGER_BYTES = 64 * 1024 * 1024
_LINGER_BLOCK_BYTES = 256 * 1024


class ParserSettings:
    """gunicorn's settings as plain attributes.

    Its parser asks for some fifteen of them with each head, and `Config` searches for each: half of the time
    that a head takes.
    """

    def __init__(self, cfg: Any) -> None:
        self.__dict__.update({name: setting.get() for name, setting in cfg.settings.items()})
        self.is_ssl = cfg.is_ssl
        self._cfg = cfg

    def __getattr__(self, name: str) -> Any:
        """What is not a setting."""
        return getattr(self._cfg, name)


class SyncWorker(GeventWorker):  # type: ignore[misc]
    """One process: greenlets for connections, the monkey patch (in `init_process`), the stop."""

    limits: ConnectionLimits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = ConnectionTable(self.limits, self._end_soon)
        self._parser_settings = ParserSettings(self.cfg)

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
        base = base_environ(listener.getsockname(), addr, is_multiprocess=self.cfg.workers > 1)
        self._table.enter(connection)
        wait_s = HEAD_S
        try:
            for number in itertools.count(1):
                req = None
                req = self._next(reader, connection, addr, number, wait_s)
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
        self, reader: ConnectionReader, connection: Connection, addr: Any, number: int, wait_s: float
    ) -> Any:
        """The connection's next request, its body still to be read.

        Raises: StopIteration at the connection's end; gunicorn's ParseException and NoMoreData.
        """
        current_id.set("")
        reader.begin_head()
        self._table.wait(connection, wait_s)
        try:
            return Request(self._parser_settings, reader, addr, number)
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
