"""One line per request: who did what with which client, how it ended, how long, how many bytes.

Bodies, passwords and host keys are never logged: a line has the named fields and nothing else.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import msgspec

from app.config import LogFormat, LogLevel
from app.http.requestid import current_id

ENTRY_KEY = "ankisyncd.entry"
_TEXT_LIMIT = 120
_PROBES = frozenset({"health", "ready", "metrics"})
_NAMES = {"gunicorn.error": "server"}
"""Loggers whose own names would only puzzle: this one is the process's, errors or not."""

_ENCODER = json.JSONEncoder(separators=(",", ":"))
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S"


class Entry(msgspec.Struct):
    """What is known of one request; filled while it walks through the server."""

    address: str = ""
    method: str = ""
    user: str = ""
    client: str = ""
    session: str = ""
    status: int = 0
    ms: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    reason: str = ""
    """Why it was refused; for people who read the log."""
    id: str = ""
    """Names the request in all of its lines."""
    error: str = ""
    """The class of the error that it was refused for."""


def entry_of(environ: MutableMapping[str, Any]) -> Entry:
    """The entry of this request, made when first asked for."""
    entry: Entry | None = environ.get(ENTRY_KEY)
    if entry is None:
        entry = environ[ENTRY_KEY] = Entry()
    return entry


def level_of(status: int, reason: str = "") -> int:
    """Our faults are errors, refusals are warnings; clients are told of some refusals under status 200."""
    if status >= 500:
        return logging.ERROR
    return logging.WARNING if status >= 400 or reason else logging.INFO


class LineFormatter:
    """Turns entries and messages into lines of bytes, each with its newline."""

    def __init__(self, style: LogFormat) -> None:
        self._format = _json if style is LogFormat.JSON else _text

    def request(self, entry: Entry, now_s: float) -> bytes:
        """The line of one request."""
        fields: dict[str, Any] = {
            "method": entry.method[:_TEXT_LIMIT],
            "status": entry.status,
            "ms": round(entry.ms, 2),
            "user": entry.user,
            "client": entry.client[:_TEXT_LIMIT],
            "session": entry.session[:_TEXT_LIMIT],
            "address": entry.address[:_TEXT_LIMIT],
            "in": entry.bytes_in,
            "out": entry.bytes_out,
        }
        if entry.reason:
            fields["reason"] = entry.reason[: 4 * _TEXT_LIMIT]
        if entry.id:
            fields["id"] = entry.id
        return self._format(now_s, level_of(entry.status, entry.reason), "request", fields)

    def lost(self, count: int) -> bytes:
        """The line that says that lines could not be written."""
        return self._format(time.time(), logging.WARNING, "lines of the log were lost", {"count": count})

    def event(self, event: str, fields: Mapping[str, Any], now_s: float) -> bytes:
        """The line of something that happened, by its fields."""
        return self._format(now_s, logging.INFO, event, fields)

    def message(self, record: logging.LogRecord) -> bytes:
        """The line of anything else that is logged; a traceback goes into it or, in text, below it."""
        fields: dict[str, Any] = {"logger": _NAMES.get(record.name, record.name)}
        if request_id := current_id.get():
            fields["id"] = request_id
        if record.exc_info and record.exc_info[0] is not None:
            fields["traceback"] = logging.Formatter().formatException(record.exc_info)
        return self._format(record.created, record.levelno, record.getMessage(), fields)


def _json(now_s: float, level: int, event: str, fields: Mapping[str, Any]) -> bytes:
    line = {"time": _stamp(now_s), "level": _level_name(level), "event": event, **fields}
    return _ENCODER.encode(line).encode("ascii") + b"\n"


def _text(now_s: float, level: int, event: str, fields: Mapping[str, Any]) -> bytes:
    parts = [_stamp(now_s), _level_name(level).ljust(7), event]
    traceback = fields.get("traceback")
    for name, value in fields.items():
        if type(value) is not str:
            parts.append(f"{name}={value}")
        elif value and name != "traceback":
            parts.append(f"{name}={_word(value)}")
    line = " ".join(parts) + "\n" + (f"{traceback}\n" if traceback else "")
    return line.encode("utf-8", "backslashreplace")


@functools.lru_cache(maxsize=1024)
def _word(word: str) -> str:
    """A value as one word; what a client chose cannot forge a line or a field."""
    if not word.isprintable() or " " in word or "=" in word or '"' in word:
        return json.dumps(word)
    return word


def _stamp(now_s: float) -> str:
    whole_s = int(now_s)
    return f"{_second(whole_s)}.{int((now_s - whole_s) * 1000):03}Z"


@functools.lru_cache(maxsize=2)
def _second(whole_s: int) -> str:
    return time.strftime(_TIME_FORMAT, time.gmtime(whole_s))


@functools.cache
def _level_name(level: int) -> str:
    return logging.getLevelName(level).lower()


class LineHandler(logging.Handler):
    """Writes every log record as a line of ours."""

    def __init__(self, formatter: LineFormatter, stream: Any) -> None:
        super().__init__()
        self._lines = formatter
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self._stream.write(self._lines.message(record))


class AccessLog:
    """Writes the lines of requests whose level is wanted."""

    def __init__(self, formatter: LineFormatter, stream: Any, least: int) -> None:
        self._lines = formatter
        self._stream = stream
        self._least = least
        self.observe: Callable[[Entry], None] | None = None
        """Told of every request that ends, whatever its level."""

    def write(self, entry: Entry) -> None:
        """Write one request's line. `GET /health` of a load balancer counts as debugging."""
        if self.observe is not None:
            self.observe(entry)
        level = (
            logging.DEBUG
            if entry.method in _PROBES and entry.status < 400
            else level_of(entry.status, entry.reason)
        )
        if level >= self._least:
            self._stream.write(self._lines.request(entry, time.time()))


def configure_logging(style: LogFormat, level: LogLevel, stream: Any) -> AccessLog:
    """Send everything that this process logs to `stream` (unbuffered bytes), in one style."""
    lines = LineFormatter(style)
    number = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    root.handlers[:] = [LineHandler(lines, stream)]
    root.setLevel(max(number, logging.WARNING))  # libraries speak up for warnings only
    for name in ("ankisyncd", "app", "storage", "gunicorn.error"):
        logging.getLogger(name).setLevel(number)
    return AccessLog(lines, stream, number)
