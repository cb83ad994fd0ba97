"""Maps errors of the AWS SDK to storage errors; used by all backends on AWS."""

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
"""Faults that an operator can repair (rights, bucket, table, clock): treated as an outage, and logged."""
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
    """Raise storage errors in place of the SDK's within the block; `what` names the object or record."""
    try:
        yield
    except ClientError as exc:
        raise _meaning(what, exc) from exc
    except ParamValidationError:
        raise
    except (BotoCoreError, ResponseParserError, binascii.Error) as exc:  # the last: damaged base64 in an item
        raise Unavailable(f"{what}: {exc}") from exc


def code_of(exc: ClientError) -> str:
    """The error's code, such as `PreconditionFailed`; for a HEAD request the bare status."""
    return str(exc.response.get("Error", {}).get("Code", ""))


def status_of(exc: ClientError) -> int:
    """The HTTP status of the error; 0 if there was no answer."""
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def gave_up(answer: dict[str, Any]) -> bool:
    """Whether the SDK gave up retrying. It then returns the last answer even if its checksum is wrong."""
    return not _GAVE_UP.isdisjoint(answer.get("ResponseMetadata", ()))


def was_repeated(answer: dict[str, Any]) -> bool:
    """Whether the SDK sent the request more than once, so that an earlier attempt may have been applied."""
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
