"""How a line looks, and that nobody can forge one."""

from __future__ import annotations

import io
import json
import logging

import pytest

from app.config import LogFormat
from app.http.accesslog import AccessLog, Entry, LineFormatter, LineHandler, level_of


@pytest.fixture
def entry() -> Entry:
    return Entry("10.0.0.9", "meta", "joe", "anki 25", "s1", 200, 1.23456, 40, 50)


def test_a_text_line_has_one_word_per_field(entry: Entry) -> None:
    line = LineFormatter(LogFormat.TEXT).request(entry, 1_700_000_000.25).decode()
    assert line == (
        "2023-11-14T22:13:20.250Z info    request method=meta status=200 ms=1.23 user=joe "
        'client="anki 25" session=s1 address=10.0.0.9 in=40 out=50\n'
    )


def test_a_json_line_is_one_object(entry: Entry) -> None:
    line = LineFormatter(LogFormat.JSON).request(entry, 0.0)
    assert json.loads(line)["client"] == "anki 25"
    assert line.count(b"\n") == 1


@pytest.mark.parametrize("client", ["a\nb", "a\r", "x status=500", 'q"', "\x1b[31m", "\u2028", "\ud800"])
@pytest.mark.parametrize("style", LogFormat)
def test_what_a_client_chose_stays_in_its_field(entry: Entry, client: str, style: LogFormat) -> None:
    entry.client = client.encode("utf-8", "replace").decode()
    line = LineFormatter(style).request(entry, 0.0).decode()
    assert line.splitlines() == [line.rstrip("\n")]
    assert line.count("status=") <= 1 or '"x status=500"' in line


def test_a_long_value_is_cut(entry: Entry) -> None:
    entry.client = "x" * 10_000
    assert len(LineFormatter(LogFormat.TEXT).request(entry, 0.0)) < 400


@pytest.mark.parametrize(
    ("status", "level"), [(200, logging.INFO), (403, logging.WARNING), (500, logging.ERROR)]
)
def test_refusals_are_warnings_and_faults_are_errors(status: int, level: int) -> None:
    assert level_of(status) == level


def test_quiet_logs_leave_out_what_went_well(entry: Entry) -> None:
    stream = io.BytesIO()
    log = AccessLog(LineFormatter(LogFormat.TEXT), stream, logging.WARNING)
    log.write(entry)
    assert stream.getvalue() == b""
    entry.status = 409
    log.write(entry)
    assert b"status=409" in stream.getvalue()


def test_health_checks_are_for_debugging() -> None:
    stream = io.BytesIO()
    AccessLog(LineFormatter(LogFormat.TEXT), stream, logging.INFO).write(Entry(method="health", status=200))
    assert stream.getvalue() == b""


def test_a_traceback_follows_its_line() -> None:
    stream = io.BytesIO()
    handler = LineHandler(LineFormatter(LogFormat.JSON), stream)
    error = ValueError("deep")
    info = (type(error), error, None)
    handler.handle(logging.LogRecord("ankisyncd", logging.ERROR, "f", 1, "it %s", ("broke",), info))
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"]) == ("it broke", "error")
    assert "ValueError: deep" in line["traceback"]
