"""Under which address the browser sees this server, which is also the one to enter in Anki."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?").fullmatch
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+){0,8}").fullmatch


class Place(msgspec.Struct, frozen=True):
    """Scheme, host and path prefix as the browser has them."""

    scheme: str
    host: str
    prefix: str

    @property
    def is_secure(self) -> bool:
        """Whether the browser's connection is encrypted, here or by a proxy."""
        return self.scheme == "https"

    @property
    def sync_address(self) -> str:
        """What to enter in Anki. It ends with a slash: clients drop a last part without one."""
        return f"{self.scheme}://{self.host}{self.prefix}/"


def place_of(environ: Mapping[str, Any]) -> Place:
    """What the browser or a proxy says of it.

    Anybody may send these headers, but they only change what the sender sees of their own request.
    """
    scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").partition(",")[0].strip().lower()
    host = environ.get("HTTP_HOST", "")
    prefix = environ.get("HTTP_X_FORWARDED_PREFIX", "").partition(",")[0].strip().rstrip("/")
    return Place(
        scheme if scheme in {"http", "https"} else str(environ["wsgi.url_scheme"]),
        host if _HOST(host) else f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}",
        prefix if _PREFIX(prefix) else "",
    )
