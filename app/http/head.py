"""The head of a request: by one expression where it is of plain shape, and by gunicorn where it is not.

Refuses to judge: a head that is odd in any way, or came in pieces, is gunicorn's to read, and how
long a body is its to say. `tests/app/http/test_head.py` holds the two ways together.
"""

from __future__ import annotations

import re
from typing import Any

from gunicorn.http.body import Body, LengthReader
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader, Unreader

_PLAIN = re.compile(
    rb"POST (/[A-Za-z0-9_.-][A-Za-z0-9/_.-]{0,500}) HTTP/1\.1\r\n"
    rb"((?:[A-Za-z0-9-]{1,100}:[\t -~]*\r\n){1,50})\r\n"
)


class _PlainRequest(Request):  # type: ignore[misc]
    """A request with gunicorn's attributes, and the values of those that are its own."""

    def __init__(self, like: Request, path: str, headers: list[tuple[str, str]]) -> None:
        # Not gunicorn's: that reads from the connection, and looks up a dozen settings.
        self.__dict__ |= like.__dict__
        self.method, self.uri, self.path = "POST", path, path
        self.headers = headers
        self.trailers: list[tuple[str, str]] = []


class _HeldReader(LengthReader):  # type: ignore[misc]
    """A body of known length that came with its head."""

    def __init__(self, content: bytes) -> None:
        super().__init__(None, len(content))
        self._content = content

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end."""
        block = self._content[:size]
        self._content = self._content[size:]
        self.length -= len(block)
        return block


class HeadReader:
    """Reads the requests of one connection, one after another."""

    def __init__(self, cfg: Any, source: Unreader, address: Any) -> None:
        self._cfg, self._source, self._address = cfg, source, address
        self._number = 0
        self._like: Request | None = None

    def read(self) -> Request:
        """The next request, its body still to be read.

        Raises: StopIteration at the end of the connection; gunicorn's ParseException and NoMoreData.
        """
        piece = self._source.read()
        if not piece:
            raise StopIteration
        self._number += 1
        found = _PLAIN.match(piece)
        request = None if found is None else self._plain(found[1].decode(), found[2].decode())
        if found is None or request is None:
            self._source.unread(piece)
            return Request(self._cfg, self._source, self._address, self._number)
        request.set_body_reader()
        rest = piece[found.end() :]
        if isinstance(request.body.reader, LengthReader) and request.body.reader.length <= len(rest):
            body, rest = rest[: request.body.reader.length], rest[request.body.reader.length :]
            request.body = Body(_HeldReader(body))
        if rest:
            self._source.unread(rest)
        return request

    def _plain(self, path: str, lines: str) -> _PlainRequest | None:
        headers = []
        for line in lines.split("\r\n")[:-1]:
            name, _, value = line.partition(":")
            headers.append((name.upper(), value.strip(" \t")))
        names = dict(headers)
        if len(names) != len(headers) or "EXPECT" in names:
            return None
        return _PlainRequest(self._example(), path, headers)

    def _example(self) -> Request:
        """What gunicorn makes of the least request on this connection."""
        if self._like is None:
            least = IterUnreader([b"POST / HTTP/1.1\r\n\r\n"])
            self._like = Request(self._cfg, least, self._address, self._number)
            self._like.unreader = self._source
        return self._like
