"""The one table from an error to its HTTP status, and how loudly it is logged.

What clients make of a status (rslib/src/error/network.rs): 400 check the database and sync in
full; 403 forget the host key; 409 in use elsewhere; 501 too old; 5xx try again later.
So nothing that is our own fault may come out as 400 or 403.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from app import errors as app_errors
from app.http.accesslog import Entry, entry_of
from app.http.response import Answer, as_response
from storage import errors as storage_errors

LOGGER_NAME = "ankisyncd"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one class of errors is answered."""

    status: int
    tells_reason: bool = False
    """Whether the error's text goes to the client: never for an error of our own."""
    logs_traceback: bool = False


_UNKNOWN = Outcome(500, logs_traceback=True)
_HOST_FAULT = Outcome(503)
_HOST_FAULT_RETRY_S = 60
"""Disks do not become empty by themselves."""

# The first entry that the error is an instance of counts.
TABLE: tuple[tuple[type[Exception], Outcome], ...] = (
    (app_errors.LoginRefused, Outcome(403, tells_reason=True)),
    (app_errors.AuthError, Outcome(403)),
    (app_errors.RateLimited, Outcome(429, tells_reason=True)),
    (app_errors.UnsupportedVersion, Outcome(501, tells_reason=True)),
    (app_errors.SessionConflict, Outcome(409, tells_reason=True)),
    (app_errors.FileMissing, Outcome(409)),
    (app_errors.ProtocolError, Outcome(400, tells_reason=True)),
    (app_errors.QuotaExceeded, Outcome(413, tells_reason=True)),
    (app_errors.Closed, Outcome(503, tells_reason=True)),
    (app_errors.ServiceUnavailable, Outcome(503)),
    (storage_errors.Unavailable, Outcome(503)),
    # The disk has lost a write: the client tries again, and an operator has to look.
    (storage_errors.NotDurable, Outcome(503, logs_traceback=True)),
    (storage_errors.DeletionUnsafe, Outcome(503)),
    (storage_errors.Conflict, Outcome(409)),
    (storage_errors.InvalidDatabase, Outcome(400)),
    (storage_errors.TooLarge, Outcome(413, tells_reason=True)),
    (storage_errors.Corrupt, _UNKNOWN),
    (storage_errors.NotFound, _UNKNOWN),
)


def outcome_of(error: Exception) -> Outcome:
    """How `error` is answered."""
    otherwise = _HOST_FAULT if app_errors.is_host_fault(error) else _UNKNOWN
    return next((outcome for kind, outcome in TABLE if isinstance(error, kind)), otherwise)


def refusal_of(error: Exception, entry: Entry) -> Answer:
    """How a request that ended with `error` is answered; says in its line of the log why."""
    outcome = outcome_of(error)
    entry.error = type(error).__name__
    if outcome.logs_traceback:
        logging.getLogger(LOGGER_NAME).error("a request failed", exc_info=error)
    else:
        entry.reason = f"{type(error).__name__}: {error}"
    headers = []
    retry_after_s = getattr(error, "retry_after_s", _HOST_FAULT_RETRY_S if outcome is _HOST_FAULT else None)
    if retry_after_s is not None:
        headers.append(("Retry-After", str(retry_after_s)))
    return _refusal(outcome.status, str(error) if outcome.tells_reason else "", headers)


def answer_errors(app: Flask) -> None:
    """Let `app` answer every error by the table."""

    def answer(error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return as_response(_refusal(error.code or 500, "", _kept_headers(error)))
        return as_response(refusal_of(error, entry_of(request.environ)))

    app.register_error_handler(Exception, answer)


def _refusal(status: int, reason: str, headers: list[tuple[str, str]]) -> Answer:
    """The number as text, as the official server has it, then the reason."""
    text = f"{status} {reason}".strip()
    return Answer(text.encode(), (*headers, ("Content-Type", "text/plain; charset=utf-8")), status)


def _kept_headers(error: HTTPException) -> list[tuple[str, str]]:
    return [(name, value) for name, value in error.get_headers() if name == "Allow"]
