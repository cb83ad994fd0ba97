"""The id that all log lines of one request have in common.

It is the one that a load balancer or proxy has given the request, so that their logs and ours can be put side
by side, or else one of ours.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final

current_id: ContextVar[str] = ContextVar("request id", default="")
"""Of the request that this greenlet serves; empty between two requests of a connection."""

_HEADERS: Final = ("HTTP_X_AMZN_TRACE_ID", "HTTP_X_REQUEST_ID")
_is_usable: Final = re.compile(r"[A-Za-z0-9=;:._/+@-]{1,128}").fullmatch
"""What can be written into a log line as it is. Clients may send these headers too, and with any content."""


def request_id(environ: Mapping[str, Any]) -> str:
    """The id of a request, by its headers; one of our own if these have none that can be used."""
    for header in _HEADERS:
        sent = environ.get(header)
        if sent is not None and _is_usable(sent):
            found: str = sent
            return found
    return f"{random.getrandbits(64):016x}"  # Python seeds it anew after a fork; nothing depends on it
