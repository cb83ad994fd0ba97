"""How an answer is put on the wire."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from app.http.worker import OneSendResponse


class Socket:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def sendall(self, block: bytes) -> None:
        self.sent.append(bytes(block))


def answer(headers: list[tuple[str, str]], blocks: list[bytes]) -> list[bytes]:
    socket = Socket()
    request = SimpleNamespace(method="POST", version=(1, 1), should_close=lambda: False)
    response = OneSendResponse(request, socket, SimpleNamespace(protocol="http"))
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
