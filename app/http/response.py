"""Payload -> Answer: packed with zstd and its size told in a header, or plain for legacy clients.

Source: rslib/src/sync/response.rs; clients of version 11 fail without `anki-original-size`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any, Protocol

import msgspec
import zstandard
from flask import Response

from app.http.request import SyncRequest
from app.offload import ThreadPools
from storage.packing import Packer

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
WsgiApp = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

_SIZE_HEADER = "anki-original-size"
_INLINE_BYTES = 64 * 1024
_MESSAGE_LEVEL = 1
_FILE_LEVEL = 1
"""Half the time of the usual level 3, and a collection gets a twentieth larger."""

_STATUS_LINES = {int(status): f"{int(status)} {status.phrase}" for status in HTTPStatus}


class Download(Protocol):
    """A file on its way to a client."""

    @property
    def size_bytes(self) -> int:
        """Known before the first block."""

    @property
    def blocks(self) -> Iterator[bytes]:
        """To be pulled by the greenlet that serves the request."""


class Answer(msgspec.Struct, frozen=True):
    """What a request is answered with. Says nothing of its type, as the official server does."""

    body: bytes | Iterator[bytes] = b""
    headers: tuple[tuple[str, str], ...] = ()
    status: int = 200

    @property
    def status_line(self) -> str:
        """The status as WSGI has it."""
        return _STATUS_LINES[self.status]

    def all_headers(self) -> list[tuple[str, str]]:
        """With the length, where that is known."""
        if isinstance(self.body, bytes):
            return [("Content-Length", str(len(self.body))), *self.headers]
        return list(self.headers)


class _Untyped(Response):
    default_mimetype = None
    automatically_set_content_length = False


def as_response(answer: Answer) -> Response:
    """The answer as Flask wants it."""
    return _Untyped(answer.body, answer.status, answer.all_headers())


class Answers:
    """Makes the answers of one worker process."""

    def __init__(self, pools: ThreadPools) -> None:
        self._pools = pools
        self._packer = Packer(_MESSAGE_LEVEL)

    def pack(self, request: SyncRequest, answer: bytes | Download) -> Answer:
        """A whole message, usually JSON, or a file."""
        return self._message(request, answer) if isinstance(answer, bytes) else self._file(request, answer)

    def _message(self, request: SyncRequest, payload: bytes) -> Answer:
        if not request.is_packed:
            return Answer(payload)
        if len(payload) <= _INLINE_BYTES:
            packed = self._packer.pack(payload)
        else:
            packed = self._pools.run(lambda: self._packer.pack(payload))
        return Answer(packed, ((_SIZE_HEADER, str(len(payload))),))

    def _file(self, request: SyncRequest, download: Download) -> Answer:
        """A file in blocks; an error cuts the connection, so a part is not taken for the whole."""
        size_bytes = download.size_bytes
        if request.is_packed:
            return Answer(
                self._packed(request.entry.user, _whole(download), size_bytes),
                ((_SIZE_HEADER, str(size_bytes)),),
            )
        return Answer(_whole(download), (("Content-Length", str(size_bytes)),))

    def _packed(self, owner: str, blocks: Iterator[bytes], size_bytes: int) -> Iterator[bytes]:
        packer = zstandard.ZstdCompressor(level=_FILE_LEVEL).compressobj(size=size_bytes)
        with self._pools.transfer(owner):
            for block in blocks:
                if packed := self._pack(packer, block):
                    yield packed
            yield packer.flush()

    def _pack(self, packer: zstandard.ZstdCompressionObj, block: bytes) -> bytes:
        if len(block) <= _INLINE_BYTES:
            return packer.compress(block)
        return self._pools.run(lambda: packer.compress(block))


def _whole(download: Download) -> Iterator[bytes]:
    """The blocks, provided that they come to the size that was promised."""
    sent_bytes = 0
    try:
        for block in download.blocks:
            sent_bytes += len(block)
            yield block
    finally:
        close = getattr(download.blocks, "close", None)
        if close is not None:
            close()
    if sent_bytes != download.size_bytes:
        raise RuntimeError(f"a download of {download.size_bytes} bytes ended after {sent_bytes}")
