"""The legacy wrapper: a multipart form whose `data` field is the payload, gzipped or not.

Source: rslib/src/sync/request/multipart.rs. Order of fields is free, unknown ones are ignored,
of a repeated one the last counts. Clients in Python and Java send the host key first, those of the first
Rust versions (2.1.20 to 2.1.56, rslib/src/sync/http_client.rs) send it after the data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from werkzeug.exceptions import HTTPException
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from app.errors import PayloadTooLarge, ProtocolError
from app.http.body import SMALL_BYTES, Source
from storage.types import Offload

_BLOCK_BYTES = 256 * 1024
_FIELDS_BYTES = 64 * 1024
_PARTS = 64
_UNPARSED_BYTES = 1024 * 1024


@dataclass(slots=True)
class Form:
    """What a legacy request says."""

    hkey: str = field(default="", repr=False)
    skey: str = ""
    media_version: str | None = None
    is_gzipped: bool = False
    payload: BinaryIO | None = None
    """At its start; None where there is no payload, or an empty one."""


class FormReader:
    """Reads forms of bounded size; payloads that are not small go to files in `folder`."""

    def __init__(self, *, limit_bytes: int, folder: Path, offload: Offload[Any]) -> None:
        self._limit_bytes = limit_bytes
        self._folder = folder
        self._offload = offload

    def read(
        self,
        source: Source,
        content_type: str,
        length_bytes: int | None,
        authenticate: Callable[[str], object],
    ) -> Form:
        """Read a whole form. `length_bytes` is the Content-Length, if there was one.

        Of a form larger than `SMALL_BYTES`, `authenticate` is asked as soon as the host key is there, so that
        the limits for clients that are not authenticated hold no longer, and nothing more is read of others.

        Raises: ProtocolError; what `authenticate` raises.
        """
        mimetype, options = parse_options_header(content_type)
        boundary = options.get("boundary")
        # Types and parameter names are compared without case: RFC 9110, section 8.3.1.
        if mimetype.lower() != "multipart/form-data" or not boundary:
            raise ProtocolError("neither an anki-sync header nor a multipart form")
        if length_bytes is not None and length_bytes > self._limit_bytes:
            raise PayloadTooLarge("the form is too large")
        parts = _Parts(boundary.encode("latin-1", "replace"), self._folder)
        left_bytes = self._limit_bytes
        wanted_bytes, is_authenticated = SMALL_BYTES, False
        while True:
            block = source.read(wanted_bytes)
            left_bytes -= len(block)
            if left_bytes < 0:
                raise PayloadTooLarge("the form is too large")
            is_last = len(block) < wanted_bytes
            self._take(parts, block, is_last=is_last)
            if is_last:
                return parts.form()
            wanted_bytes = _BLOCK_BYTES
            if not is_authenticated and (hkey := parts.find_host_key()):
                authenticate(hkey)
                is_authenticated = True

    def _take(self, parts: _Parts, block: bytes, *, is_last: bool) -> None:
        if len(block) <= SMALL_BYTES:
            parts.take(block, is_last=is_last)
        else:
            self._offload(lambda: parts.take(block, is_last=is_last))


class _Parts:
    """Follows the form's parts and keeps those that mean something."""

    def __init__(self, boundary: bytes, folder: Path) -> None:
        self._decoder = MultipartDecoder(boundary, max_parts=_PARTS)
        self._folder = folder
        self._fields: dict[str, bytearray] = {}
        self._data: tempfile.SpooledTemporaryFile[bytes] | None = None
        self._current: str | None = None
        self._is_complete = False

    def take(self, block: bytes, *, is_last: bool) -> None:
        try:
            self._decoder.receive_data(block)
            if is_last:
                self._decoder.receive_data(None)
            while not isinstance(event := self._decoder.next_event(), NeedData):
                if isinstance(event, Epilogue):
                    self._is_complete = True
                    return
                if isinstance(event, (Field, File)):
                    self._start(event.name)
                elif isinstance(event, Data):
                    self._append(event.data)
        except (ValueError, TypeError, AttributeError, HTTPException) as exc:  # the decoder's own
            raise ProtocolError("the form cannot be read") from exc
        if len(self._decoder.buffer) > _UNPARSED_BYTES:
            raise ProtocolError("the form's parts cannot be told apart")

    def find_host_key(self) -> str:
        """The host key, if it was read; else an empty text."""
        if self._current == "k":
            return ""
        return self._fields.get("k", bytearray()).decode("utf-8", "replace")

    def form(self) -> Form:
        if not self._is_complete:
            raise ProtocolError("the form is truncated")
        text = {name: value.decode("utf-8", "replace") for name, value in self._fields.items()}
        form = Form(text.get("k", ""), text.get("s", ""), text.get("v"), text.get("c", "0") != "0")
        if self._data is not None and self._data.tell():
            self._data.seek(0)
            form.payload = cast("BinaryIO", self._data)
        return form

    def _start(self, name: str | None) -> None:
        self._current = "k" if name == "sk" else name
        if self._current == "data":
            # The file has no name and goes with its last reference.
            self._data = tempfile.SpooledTemporaryFile(SMALL_BYTES, dir=str(self._folder))  # noqa: SIM115
        elif self._current in {"k", "s", "v", "c"}:
            self._fields[self._current] = bytearray()

    def _append(self, piece: bytes) -> None:
        if self._current == "data" and self._data is not None:
            self._data.write(piece)
        elif (value := self._fields.get(self._current or "")) is not None:
            if len(value) + len(piece) > _FIELDS_BYTES:
                raise ProtocolError("a field of the form is too large")
            value += piece
