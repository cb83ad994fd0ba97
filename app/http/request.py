"""bytes -> SyncRequest: the two wrappings that clients put around a payload.

All checks of form live here; what the payload says is the services' business.
Source: rslib/src/sync/request/.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import parse_qs

import msgspec

from app.auth.hostkeys import hash_of
from app.config import AddressSource
from app.errors import ProtocolError
from app.http.accesslog import Entry, entry_of
from app.http.addresses import parse_address
from app.http.body import Body, Source
from app.http.multipart import FormReader
from app.http.unpack import GzipUnpacker, PlainUnpacker, ZstdUnpacker, zstd_decompressor
from app.json_reader import reader
from storage.database.origin import device_of
from storage.types import Offload

HEADER_VERSION = 11
"""From this version on answers are zstd with their size in a header."""

FORM_VERSION = 10
"""What a form counts as: older clients do not tell their version with every request."""

_OLDEST_VERSION = 8

_QUERY_VERBS = frozenset({"GET", "HEAD"})


class SyncRequest(msgspec.Struct, frozen=True):
    """One request, unwrapped; `body` is still to be read."""

    method: str
    version: int
    client: str
    """Version of the client program; empty from legacy clients."""
    hkey: str
    skey: str
    address: str
    media_version: str | None
    """The `v` of a legacy media client, which then stands for the payload of `begin`."""
    body: Body
    entry: Entry
    """What the log will say of it."""

    @property
    def device(self) -> str:
        """The id of the host key, whether the key is good or not; empty without a key."""
        return device_of(hash_of(self.hkey)) if self.hkey else ""

    @property
    def is_packed(self) -> bool:
        """Whether the answer must be zstd with a size header."""
        return self.version >= HEADER_VERSION

    def __repr__(self) -> str:
        """Without the host key."""
        return f"SyncRequest({self.method!r}, version={self.version}, client={self.client!r})"


class SyncHeader(msgspec.Struct, frozen=True):
    """The JSON in the `anki-sync` header; names as on the wire."""

    v: Annotated[int, msgspec.Meta(ge=0, le=255)]
    k: str
    c: str
    s: str


_read_header = reader(SyncHeader, "anki-sync header")


class RequestReader:
    """Unwraps the requests of one worker process."""

    def __init__(  # noqa: PLR0913 - all by name
        self,
        *,
        unpacked_limit_bytes: int,
        form_limit_bytes: int,
        folder: Path,
        offload: Offload[Any],
        address_source: AddressSource,
        authenticate: Callable[[str], str],
    ) -> None:
        """`authenticate` tells whose host key it is, and raises AuthError if it is of no user."""
        self._limit_bytes = unpacked_limit_bytes
        self._offload = offload
        self._forms = FormReader(limit_bytes=form_limit_bytes, folder=folder, offload=offload)
        self._shared = zstd_decompressor()
        self._address = address_finder(address_source)
        self._authenticate = authenticate

    def read(self, method: str, environ: MutableMapping[str, Any]) -> SyncRequest:
        """Unwrap a request.

        Raises: ProtocolError.
        """
        entry = entry_of(environ)
        entry.method = method
        if environ["REQUEST_METHOD"] in _QUERY_VERBS:
            request = self._read_query(method, environ, entry)
        elif (header := environ.get("HTTP_ANKI_SYNC")) is not None:
            request = self._read_packed(method, header, environ, entry)
        else:
            request = self._read_form(method, environ, entry)
        entry.client, entry.session, entry.address = request.client, request.skey, request.address
        return request

    def _read_packed(self, method: str, header: str, environ: Mapping[str, Any], entry: Entry) -> SyncRequest:
        if not header.isascii():
            raise ProtocolError("the anki-sync header is not ASCII")
        wrapping = _read_header(header)
        if not _OLDEST_VERSION <= wrapping.v <= HEADER_VERSION:
            raise ProtocolError("the sync version is not supported")
        body = self._body(environ["wsgi.input"], ZstdUnpacker)
        body.check(ZstdUnpacker(self._shared))
        return SyncRequest(
            method, wrapping.v, wrapping.c, wrapping.k, wrapping.s, self._address(environ), None, body, entry
        )

    def _read_query(self, method: str, environ: Mapping[str, Any], entry: Entry) -> SyncRequest:
        """With `k` and `v` in the query."""
        try:
            query = parse_qs(
                environ.get("QUERY_STRING", ""), keep_blank_values=True, errors="replace", max_num_fields=16
            )
            (hkey,), (version,) = query["k"], query["v"]
        except (KeyError, ValueError) as exc:
            raise ProtocolError("k and v are needed once each") from exc
        body = self._body(io.BytesIO(), PlainUnpacker)
        body.check(PlainUnpacker())
        return SyncRequest(method, FORM_VERSION, "", hkey, "", self._address(environ), version, body, entry)

    def _read_form(self, method: str, environ: Mapping[str, Any], entry: Entry) -> SyncRequest:
        length = environ.get("CONTENT_LENGTH") or None

        def authenticate(hkey: str) -> None:
            entry.user = self._authenticate(hkey)

        form = self._forms.read(
            environ["wsgi.input"],
            environ.get("CONTENT_TYPE", ""),
            None if length is None else int(length),
            authenticate,
        )
        if form.payload is None:
            body = self._body(io.BytesIO(b"{}"), PlainUnpacker)
            body.check(PlainUnpacker())
        else:
            kind = GzipUnpacker if form.is_gzipped else PlainUnpacker
            body = self._body(cast("Source", form.payload), kind)
            body.check(kind())
        return SyncRequest(
            method,
            FORM_VERSION,
            "",
            form.hkey,
            form.skey,
            self._address(environ),
            form.media_version,
            body,
            entry,
        )

    def _body(self, source: Source, unpacker: Callable[[], Any]) -> Body:
        return Body(source, unpacker, self._offload, self._limit_bytes)


_ADDRESS_KEYS = {
    AddressSource.CONNECTION: "REMOTE_ADDR",
    AddressSource.X_REAL_IP: "HTTP_X_REAL_IP",
    AddressSource.RIGHTMOST_X_FORWARDED_FOR: "HTTP_X_FORWARDED_FOR",
    AddressSource.CF_CONNECTING_IP: "HTTP_CF_CONNECTING_IP",
    AddressSource.TRUE_CLIENT_IP: "HTTP_TRUE_CLIENT_IP",
    AddressSource.FLY_CLIENT_IP: "HTTP_FLY_CLIENT_IP",
}


def address_finder(source: AddressSource) -> Callable[[Mapping[str, Any]], str]:
    """How to find a client's address in an environ; the answer is empty if there is none.

    The rightmost member of the header is the one that our own proxy has added; a client may invent the
    others. If that member is no address, the address of the connection counts: a text that a client may
    choose would count as another client each time.
    """
    key = _ADDRESS_KEYS[source]

    def find(environ: Mapping[str, Any]) -> str:
        named = environ.get(key, "").rpartition(",")[2]
        return parse_address(named) or parse_address(environ.get("REMOTE_ADDR", "")) or ""

    return find
