"""Notes the requests of known users that fail, for `ankisyncctl syncs`."""

from __future__ import annotations

import time
from typing import Protocol

from app.http.errors import outcome_of
from app.http.request import SyncRequest
from storage.database.failures import Failure
from storage.types import DatabaseId, DatabaseKind, UserId

_LONGEST_CLIENT = 100
_MEDIA = frozenset({"begin", "mediaChanges", "uploadChanges", "downloadFiles", "mediaSanity"})


class Failures(Protocol):
    """What the views ask of `app.failures`."""

    def note(self, database: DatabaseId, failure: Failure) -> None:
        """Keep a failure; returns at once."""


def note_failure(failures: Failures, request: SyncRequest, error: Exception | None = None) -> None:
    """Note that a request failed by `error`, or was refused under status 200 for the reason in its entry.

    Not noted: a request whose host key was not proven, which is of no known user.
    """
    user = request.entry.user
    if not user:
        return
    kind = DatabaseKind.MEDIA if request.method in _MEDIA else DatabaseKind.COLLECTION
    failure = Failure(
        time_ms=time.time_ns() // 1_000_000,
        method=request.method,
        device=request.device,
        client=request.client[:_LONGEST_CLIENT].encode("utf-8", "replace").decode(),
        status=200 if error is None else outcome_of(error).status,
        error="" if error is None else type(error).__name__,
        text=(request.entry.reason if error is None else str(error)).encode("utf-8", "replace").decode(),
    )
    failures.note(DatabaseId(UserId(user), kind), failure)
