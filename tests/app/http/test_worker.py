"""How an answer is put on the wire."""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace

import pytest

from app.http.server.connections import LEAST_RATE
from app.http.server.exchange import ClientGone, OneSendResponse


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
