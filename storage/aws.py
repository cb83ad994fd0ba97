"""What the errors of the AWS SDK mean to the storage, for the backends that use it.

Refuses everything else: clients are made by the composition root and given to the backends.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from botocore.parsers import ResponseParserError

from storage.errors import NotFound, StorageError, Unavailable

_ABSENT: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_REFUSED: Final = frozenset(
    {
        "AccessDenied", "AccessDeniedException", "ExpiredToken", "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId", "NoSuchBucket", "RequestTimeTooSkewed", "ResourceNotFoundException",
        "SignatureDoesNotMatch", "UnrecognizedClientException", "403",
    }
)  # fmt: skip
"""What an operator can put right: the server waits for it as for an outage, and says so."""
_GAVE_UP: Final = frozenset({"MaxAttemptsReached", "RetryQuotaReached"})
_THROTTLED: Final = frozenset(
    {
        "LimitExceededException", "ProvisionedThroughputExceededException", "RequestLimitExceeded",
        "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequestsException",
        "TransactionInProgressException", "InternalError", "UnknownError",
    }
)  # fmt: skip


@contextmanager
def mapped(what: str) -> Iterator[None]:
    """Raise what the storage knows instead of the SDK's errors; `what` names the object or record."""
    try:
        yield
    except ClientError as exc:
        raise _meaning(what, exc) from exc
    except ParamValidationError:
        raise
    except (BotoCoreError, ResponseParserError, binascii.Error) as exc:  # the last one of a garbled record
        raise Unavailable(f"{what}: {exc}") from exc


def code_of(exc: ClientError) -> str:
    """The error's code, such as `PreconditionFailed`; for a HEAD request the bare status."""
    return str(exc.response.get("Error", {}).get("Code", ""))


def status_of(exc: ClientError) -> int:
    """The HTTP status that came with the error; 0 where none did."""
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def gave_up(answer: dict[str, Any]) -> bool:
    """Whether the SDK would have sent the request again, had it not done so too often.

    It then gives the last answer on as it is, be it one of which the checksum was wrong.
    """
    return not _GAVE_UP.isdisjoint(answer.get("ResponseMetadata", ()))


def was_repeated(answer: dict[str, Any]) -> bool:
    """Whether the SDK sent the request more than once, so that an earlier one may have landed."""
    return bool(answer.get("ResponseMetadata", {}).get("RetryAttempts", 0))


def _meaning(what: str, exc: ClientError) -> StorageError:
    code, status = code_of(exc), status_of(exc)
    if gave_up(exc.response):
        return Unavailable(f"{what}: {exc}")
    if code in _ABSENT:
        return NotFound(what)
    if code in _THROTTLED or code in _REFUSED or status in {429, 503} or status >= 500:
        return Unavailable(f"{what}: {exc}")
    return StorageError(f"{what}: {exc}")
