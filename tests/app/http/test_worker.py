"""How an answer is put on the wire."""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader

from app.http.server.connections import LEAST_RATE
from app.http.server.exchange import ClientGone, OneSendResponse
from app.http.server.worker import ParserSettings

HEADS = (
    b"POST /sync/meta HTTP/1.1\r\nhost: a\r\nanki-sync: {}\r\ncontent-length: 4\r\n\r\nbody",
    b"POST /sync/meta HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nx-trailer: 1\r\n\r\n",
    b"GET /health HTTP/1.0\r\nexpect: 100-continue\r\nx-forwarded-proto: https\r\n\r\n",
    b"POST / HTTP/1.1\r\nx_y: 1\r\n\r\n",
    b"POST / HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\na: " + b"x" * 9000 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + b"a: 1\r\n" * 65 + b"\r\n",
    b"post / HTTP/1.1\r\na : 1\r\n b\r\n\r\n",
)


def parsed(settings: object, head: bytes) -> object:
    """All that gunicorn's parser finds."""
    try:
        request = Request(settings, IterUnreader([head]), ("192.0.2.1", 4711))
        found = [request.method, request.uri, request.version, request.headers, request.scheme]
        return [*found, request.should_close(), request.body.read(), request.trailers]
    except ParseException as exc:
        return type(exc)


@pytest.mark.parametrize("head", HEADS)
def test_the_parser_finds_the_same_with_plain_settings(head: bytes) -> None:
    config = Config()
    for name, value in (("limit_request_fields", 64), ("limit_request_field_size", 8192)):
        config.set(name, value)
    assert parsed(ParserSettings(config), head) == parsed(config, head)


class Socket:
    def __init__(self, takes_at_once: int = 1 << 20) -> None:
        self.sent: list[bytes] = []
        self.takes_at_once = takes_at_once

    def send(self, block: bytes) -> int:
        self.sent.append(bytes(block[: self.takes_at_once]))
        return len(self.sent[-1])


def answer(
    headers: list[tuple[str, str]],
    blocks: list[bytes],
    *,
    method: str = "POST",
    version: tuple[int, int] = (1, 1),
    takes_at_once: int = 1 << 20,
) -> list[bytes]:
    socket = Socket(takes_at_once)
    request = SimpleNamespace(method=method, version=version, should_close=lambda: False)
    response = OneSendResponse(request, socket)
    response.start_response("200 OK", headers)
    for block in blocks:
        response.write(block)
    response.close()
    return socket.sent


def test_head_and_body_of_a_small_answer_go_out_in_one_send() -> None:
    (sent,) = answer([("Content-Length", "4")], [b"body"])
    assert sent.startswith(b"HTTP/1.1 200 OK\r\n")
    assert sent.endswith(b"\r\n\r\nbody")


@pytest.mark.parametrize("blocks", [[], [b""]])
def test_an_answer_without_a_body_is_sent_too(blocks: list[bytes]) -> None:
    (sent,) = answer([("Content-Length", "0")], blocks)
    assert sent.endswith(b"\r\n\r\n")


def test_a_stream_is_sent_in_chunks() -> None:
    first, second, end = answer([], [b"a" * 16, b"b"])
    assert first.endswith(b"\r\n\r\n10\r\n" + b"a" * 16 + b"\r\n")
    assert (second, end) == (b"1\r\nb\r\n", b"0\r\n\r\n")


def test_what_the_socket_does_not_take_at_once_follows() -> None:
    sent = answer([("Content-Length", "4")], [b"body"], takes_at_once=20)
    assert max(map(len, sent)) <= 20
    assert b"".join(sent).endswith(b"\r\n\r\nbody")


def test_no_more_is_sent_than_was_promised() -> None:
    assert b"".join(answer([("Content-Length", "4")], [b"bod", b"y and more", b"!"])).endswith(b"\r\nbody")


def test_an_answer_to_head_has_no_body() -> None:
    (sent,) = answer([("Content-Length", "4")], [b"body"], method="HEAD")
    assert sent.endswith(b"\r\n\r\n")


def test_a_stream_to_a_client_of_http_1_0_ends_with_the_connection() -> None:
    sent = b"".join(answer([], [b"a", b"b"], version=(1, 0)))
    assert sent.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"Connection: close\r\n" in sent
    assert sent.endswith(b"\r\n\r\nab")


@pytest.mark.parametrize("header", [("x", "a\r\nset-cookie: b"), ("x\r\ny", "a"), ("x", "\u2028"), ("", "a")])
def test_a_header_cannot_become_two(header: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="malformed"):
        answer([header], [])


def test_an_answer_that_is_taken_too_slowly_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0

    class Slow(Socket):
        def __init__(self, bytes_each: int) -> None:
            super().__init__(bytes_each)

        def send(self, block: bytes) -> int:
            nonlocal now_s
            now_s += 10
            return super().send(block)

    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    request = SimpleNamespace(method="POST", version=(1, 1), should_close=lambda: False)
    for bytes_each, is_ended in ((10 * LEAST_RATE + 1, False), (LEAST_RATE, True)):
        response = OneSendResponse(request, Slow(bytes_each))
        response.start_response("200 OK", [("Content-Length", "1000000")])
        with pytest.raises(ClientGone) if is_ended else contextlib.nullcontext():
            response.write(bytes(1_000_000))
