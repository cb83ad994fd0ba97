"""The table from errors to statuses."""

from __future__ import annotations

import errno

import apsw
import pytest

from app import errors as app_errors
from app.http.accesslog import Entry
from app.http.errors import outcome_of, refusal_of
from storage import errors as storage_errors

HOST = [
    getattr(errno, name)
    for name in (
        "ENOSPC", "EDQUOT", "EROFS", "EIO", "EMFILE", "ENFILE", "ENOMEM", "EACCES", "EPERM", "EFBIG",
        "ESTALE", "ENODEV", "ENXIO", "ETIMEDOUT", "ENOLCK", "EBUSY", "EMLINK", "EOPNOTSUPP", "EAGAIN",
    )
]  # fmt: skip
OURS = [errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.EBADF, errno.EINVAL, errno.ENOTEMPTY]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (app_errors.ProtocolError("x"), 400),
        (app_errors.NotApplicable("x"), 400),
        (app_errors.PayloadTooLarge("x"), 400),
        (app_errors.AuthError("x"), 403),
        (app_errors.RateLimited("x", 9), 429),
        (app_errors.SessionConflict("x"), 409),
        (app_errors.FileMissing("x"), 409),
        (app_errors.UnsupportedVersion("x"), 501),
        (app_errors.ServiceUnavailable("x"), 503),
        (storage_errors.HeadMoved("x"), 409),
        (storage_errors.SessionLost("x"), 409),
        (storage_errors.SessionAhead("x"), 409),
        (storage_errors.InvalidDatabase("x"), 400),
        (storage_errors.TooLarge("x"), 413),
        (storage_errors.Unavailable("x"), 503),
        (storage_errors.Corrupt("k", 1, 2), 500),
        (storage_errors.NotFound("x"), 500),
        (KeyError("x"), 500),
        (OSError("x"), 500),
        *((OSError(number, "x"), 503) for number in HOST),
        *((OSError(number, "x"), 500) for number in OURS),
        (MemoryError(), 503),
        (apsw.FullError("x"), 503),
        (apsw.IOError("x"), 503),
        (apsw.CantOpenError("x"), 503),
        (apsw.ReadOnlyError("x"), 503),
        (apsw.SQLError("x"), 500),
        (apsw.MisuseError("x"), 500),
    ],
)
def test_each_error_has_its_status(error: Exception, status: int) -> None:
    assert outcome_of(error).status == status


def every_error() -> list[type[Exception]]:
    found: list[type[Exception]] = []
    left = [app_errors.AppError, storage_errors.StorageError]
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if kind.__module__ in {app_errors.__name__, storage_errors.__name__}:
            found.append(kind)
    return found


def test_our_own_faults_never_look_like_the_clients() -> None:
    ours = (
        storage_errors.Corrupt,
        storage_errors.NotFound,
        storage_errors.Unavailable,
        storage_errors.NotDurable,
    )
    statuses = {outcome_of(kind.__new__(kind)).status for kind in every_error() if issubclass(kind, ours)}
    assert statuses == {500, 503}


def test_a_traceback_is_logged_for_what_we_must_mend_only() -> None:
    shared = {app_errors.__name__, storage_errors.__name__}  # a room's own errors end in that room
    known = [kind for kind in every_error() if kind.__module__ in shared]
    logged = {kind for kind in known if outcome_of(kind.__new__(kind)).logs_traceback}
    assert logged == {
        app_errors.AppError,
        storage_errors.StorageError,
        storage_errors.Corrupt,
        storage_errors.NotFound,
        storage_errors.NotDurable,
    }


def test_a_fault_of_the_machine_says_when_to_come_back_and_why_in_the_log() -> None:
    entry = Entry()
    answer = refusal_of(OSError(errno.ENOSPC, "No space left on device", "/data/spool/x"), entry)
    assert (answer.status, answer.body) == (503, b"503")
    assert "Retry-After" in dict(answer.headers)
    assert "No space left on device" in entry.reason
