"""The short way to read a head, and gunicorn's: whatever is sent, both find the same or refuse it alike."""

from __future__ import annotations

from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.body import LengthReader
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from hypothesis import example, given
from hypothesis import strategies as st

from app.http.head import HeadReader, _PlainRequest

ADDRESS = ("127.0.0.1", 4711)
CONFIG = Config()
CONFIG.set("limit_request_field_size", 16 * 1024)
CONFIG.set("forwarder_headers", "")
CONFIG.set("secure_scheme_headers", {})

USUAL = (
    b"POST /sync/meta HTTP/1.1\r\nhost: anki:27702\r\nAccept: */*\r\n"
    b'anki-sync: {"v":11,"k":"key","c":"anki,25.09","s":"x"}\r\ncontent-length: 4\r\n\r\nbodyPOST /next'
)
CHUNKED = (
    b"POST /sync/meta HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    b"4\r\nbody\r\n0\r\nx-trailer: 1\r\n\r\nrest"
)


def found(read: Any, source: IterUnreader) -> dict[str, object]:
    """All that the application could see of a request, and what is left for the next one."""
    try:
        request = read()
        seen = {name: getattr(request, name) for name in ("method", "uri", "path", "query", "fragment")}
        seen |= {"version": request.version, "headers": request.headers, "closes": request.should_close()}
        seen |= {"expects": request._expected_100_continue, "scheme": request.scheme}
        seen |= {"is_known": isinstance(request.body.reader, LengthReader), "peer": request.peer_addr}
        seen |= {"start": request.body.read(3), "body": request.body.read(), "trailers": request.trailers}
    except BaseException as exc:  # noqa: BLE001 - StopIteration too
        return {"error": type(exc)}
    return seen | {"rest": source.read(1 << 20)}


def both(pieces: list[bytes]) -> tuple[dict[str, object], dict[str, object]]:
    ours, theirs = IterUnreader(list(pieces)), IterUnreader(list(pieces))
    return (
        found(HeadReader(CONFIG, ours, ADDRESS).read, ours),
        found(lambda: Request(CONFIG, theirs, ADDRESS, 1), theirs),
    )


_NAMES = """host content-length Content-Length transfer-encoding connection expect anki-sync content-type
    x_y x-y x:"""
_VALUES = """0 4 +4 4,4 -1 chunked gzip,chunked identity close keep-alive 100-continue"""
NAMES = st.sampled_from(_NAMES.split()) | st.text("aZ0-_ :\t", max_size=4)
VALUES = st.sampled_from(
    [*_VALUES.split(), "", " 4 ", "4, 4", "\xb2", "a\tb", "a\x00", "a\rb", "\xe9", " folded\r\n more"]
) | st.text("a4 \t,", max_size=5)
TARGETS = st.sampled_from(
    [
        "/sync/meta",
        "//sync/meta",
        "/",
        "*",
        "http://a/sync/meta",
        "/a?k=v",
        "/a#b",
        "/%2e",
        "/a;b",
        "/sync//meta",
    ]
) | st.text("/.a?#%[]@", max_size=5)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    method = draw(st.sampled_from(["POST", "POST", "POST", "GET", "HEAD", "post", "PO ST"]))
    version = draw(
        st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "http/1.1", ""])
    )
    separator = draw(st.sampled_from([":", ": ", " : ", ":\t"]))
    lines = [f"{method} {draw(TARGETS)} {version}"]
    fields = draw(st.lists(st.tuples(NAMES, VALUES), max_size=5))
    lines += [f"{name}{separator}{value}" for name, value in fields]
    end = draw(st.sampled_from(["\r\n", "\r\n", "\r\n", "\n"]))
    body = draw(
        st.sampled_from(
            [b"", b"body", b"bodyPOST / HTTP/1.1\r\n\r\n", b"4\r\nbody\r\n0\r\n\r\nrest", b"0\r\n\r\n"]
        )
    )
    return (end.join(lines) + end + end).encode("latin-1") + body


@given(heads())
@example(USUAL)
@example(CHUNKED)
@example(USUAL.replace(b"content-length: 4", b"content-length: 4\r\ntransfer-encoding: chunked"))
@example(USUAL.replace(b"content-length: 4", b"content-length: 4\r\ncontent-length: 4"))
@example(USUAL.replace(b"content-length: 4", b"content-length: 99"))
@example(USUAL.replace(b"Accept", b"host"))
@example(b"POST /sync/meta HTTP/1.1\r\n" + b"a: b\r\n" * 60 + b"\r\n")
def test_the_short_way_finds_what_gunicorn_finds(data: bytes) -> None:
    ours, theirs = both([data])
    assert ours == theirs


@given(heads(), st.integers(1, 200))
@example(USUAL, 30)
def test_a_head_in_two_pieces_is_found_too(data: bytes, cut: int) -> None:
    ours, theirs = both([piece for piece in (data[:cut], data[cut:]) if piece])
    assert ours == theirs


@pytest.mark.parametrize("data", [USUAL, CHUNKED])
def test_what_clients_send_goes_the_short_way(data: bytes) -> None:
    assert isinstance(HeadReader(CONFIG, IterUnreader([data]), ADDRESS).read(), _PlainRequest)


def test_requests_of_a_connection_are_found_one_after_another() -> None:
    one = USUAL.removesuffix(b"POST /next")
    source = IterUnreader([one + one + CHUNKED.removesuffix(b"rest"), one])
    heads = HeadReader(CONFIG, source, ADDRESS)
    seen = [heads.read().body.read() for _ in range(4)]
    assert seen == [b"body"] * 4
    with pytest.raises(StopIteration):
        heads.read()
