"""What can go wrong in the app, by meaning. No HTTP status is known here (see `app.http.errors`).

AppError
|-- ProtocolError            a request that cannot be read: framing, JSON, types, names, counts
|   |-- UnknownMethod        there is no such sync method; the text lists those there are
|   |-- NotApplicable        readable, but it cannot be merged; the sync it belongs to is over
|   `-- PayloadTooLarge      more bytes than a request may have
|-- QuotaExceeded            the user would keep more than the operator allows; the text is for the user
|-- AuthError                wrong name or password, or a host key that is unknown or revoked
|   `-- LoginRefused         the password is right, but more is needed; the text tells the user what
|-- RateLimited              too many wrong passwords; come back later
|-- SessionConflict          no sync of this key is running: never begun, ended, or taken over
|-- FileMissing              a media file was asked for that the user does not have
|-- UnsupportedVersion       the client speaks a protocol version that is too old or too new
`-- ServiceUnavailable       something outside (the identity provider) is away; try again later
    `-- Closed               the operator has closed the service for maintenance; the text is for the user

The storage raises its own tree, `storage.errors`; nothing is translated twice.
"""

from __future__ import annotations

import errno
from contextvars import ContextVar
from typing import NamedTuple

import apsw


class Refusal(NamedTuple):
    """Why a request was refused, though its answer has status 200."""

    error: str
    """Of which kind, like the name of an exception; empty if nothing was refused."""
    text: str
    """For the log."""


NO_REFUSAL = Refusal("", "")
refusal: ContextVar[Refusal] = ContextVar("refusal", default=NO_REFUSAL)
"""Whether and why the request at hand was refused; for the log, metrics and `ankisyncctl syncs`."""


class AppError(Exception):
    """Base class of all errors that the app raises deliberately. Texts are for the log."""


class ProtocolError(AppError):
    """The client's request is invalid."""


class UnknownMethod(ProtocolError):
    """The path ends with no method of the protocol."""


class NotApplicable(ProtocolError):
    """The message cannot be applied to the user's data; a running sync has been ended."""


class PayloadTooLarge(ProtocolError):
    """The request has more bytes than the limit allows."""


class QuotaExceeded(AppError):
    """The user may not keep so much; the text says so to the user."""


class AuthError(AppError):
    """Wrong credentials. Clients delete their host key on it, so never raise it for an outage."""


class LoginRefused(AuthError):
    """The password is right, but the login is not possible; the text is for the user."""


class RateLimited(AppError):
    """Too many attempts; the next one is possible after `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SessionConflict(AppError):
    """The sync that the request belongs to is not running, or not any more."""


class FileMissing(AppError):
    """A requested media file does not exist."""


class UnsupportedVersion(AppError):
    """The client's protocol version is not supported."""


class ServiceUnavailable(AppError):
    """A service that the request needs is not available; `retry_after_s` is a hint."""

    def __init__(self, message: str, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Closed(ServiceUnavailable):
    """The operator has closed the service for maintenance; the text says why, for the user."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after_s=60)


# SQLite's errors for faults of the disk, of memory or of the system.
_DATABASE_FAULTS = (
    apsw.FullError, apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError, apsw.NoMemError,
    apsw.PermissionsError, apsw.NoLFSError, apsw.BusyError,
)  # fmt: skip

# System calls that fail because of a wrong path, descriptor or argument: bugs of this program.
_OWN_FAULTS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_OWN_NUMBERS = {errno.EBADF, errno.EINVAL, errno.EFAULT, errno.ENOTEMPTY, errno.ENOTSOCK, errno.ESPIPE}


def is_host_fault(error: BaseException) -> bool:
    """Whether the machine is at fault: a full, broken or read-only disk, permissions, memory, limits.

    The request is then valid, and can be sent again. All errors of system calls count except those that
    indicate a bug, as error numbers differ between systems and file systems.
    """
    if isinstance(error, OSError):
        return error.errno is not None and not (isinstance(error, _OWN_FAULTS) or error.errno in _OWN_NUMBERS)
    return isinstance(error, (MemoryError, *_DATABASE_FAULTS))
