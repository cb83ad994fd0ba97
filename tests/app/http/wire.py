"""A client that says exactly the bytes it is told to, and reads answers by HTTP's rules."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import zstandard

BOUNDARY = "Anki-sync-boundary"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def unpacked(self) -> bytes:
        return zstandard.ZstdDecompressor().decompressobj().decompress(self.body)

    @property
    def closes(self) -> bool:
        return self.headers["connection"] == "close"


class Wire:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = self.socket.makefile("rb")

    def close(self) -> None:
        self.reader.close()
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def answer(self, *, has_body: bool = True) -> Answer:
        status = int(self.reader.readline().split()[1])
        headers = {}
        while (line := self.reader.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return Answer(status, headers, self._body(headers) if has_body else b"")

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            pieces = []
            while size := int(self.reader.readline(), 16):
                pieces.append(self.reader.read(size))
                assert self.reader.read(2) == b"\r\n"
            assert self.reader.readline() == b"\r\n"
            return b"".join(pieces)
        if "content-length" in headers:
            return self.reader.read(int(headers["content-length"]))
        return self.reader.read()

    def ask(self, *parts: bytes) -> Answer:
        self.send(*parts)
        return self.answer()

    def is_closed_by_server(self) -> bool:
        try:
            return self.reader.read(1) == b""
        except ConnectionResetError:
            return True


@contextlib.contextmanager
def wire(port: int) -> Iterator[Wire]:
    opened = Wire(port)
    try:
        yield opened
    finally:
        opened.close()


def packed(payload: bytes | object) -> bytes:
    """One zstd frame without a content size, as real clients send it."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(data) + packer.flush()


def header(**changes: object) -> str:
    values = {"v": 11, "k": "key-of-joe", "c": "anki,25.09 (x),linux", "s": "sess"} | changes
    return json.dumps({name: value for name, value in values.items() if value is not None})


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: anki", *lines, "", ""]).encode("latin-1")


def with_length(path: str, body: bytes, *lines: str) -> bytes:
    return head(path, *lines, f"content-length: {len(body)}") + body


def direct(path: str, payload: object, **changes: object) -> bytes:
    """A version 11 request with a content length."""
    return with_length(path, packed(payload), f"anki-sync: {header(**changes)}")


def chunks(body: bytes, size: int) -> Iterable[bytes]:
    for start in range(0, len(body), size):
        piece = body[start : start + size]
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def chunked(path: str, body: bytes, size: int, **changes: object) -> Iterator[bytes]:
    """A version 11 request as real clients send it."""
    yield head(path, f"anki-sync: {header(**changes)}", "transfer-encoding: chunked")
    yield from chunks(body, size)


def form(*fields: tuple[str, bytes], ending: bytes = b"--\r\n", as_files: bool = False) -> bytes:
    parts = []
    for name, value in fields:
        filename = '; filename="data"\r\nContent-Type: application/octet-stream' if as_files else ""
        head_line = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'
        parts.append(head_line.encode() + value + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}".encode() + ending


def legacy(path: str, body: bytes) -> bytes:
    return with_length(path, body, f"content-type: multipart/form-data; boundary={BOUNDARY}")
