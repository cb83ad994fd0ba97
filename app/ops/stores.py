"""Stores that are timed: a decorator for the two ports of the storage, and a listener to the AWS SDK."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from app.ops import catalogue
from app.ops.meters import Meters
from storage.errors import StorageError

_LAZY: Final = frozenset({"list", "list_changed", "stream"})
_OPERATIONS: Final = {
    "heads": (
        "find", "find_many", "open_session", "append", "update_session", "close_session", "advance_head",
        "replace_chain", "list", "list_changed", "settle", "delete",
    ),
    "objects": (
        "put", "put_many", "put_file", "read", "read_many", "stream", "find", "list", "delete", "delete_old",
    ),
}  # fmt: skip
_THROTTLED: Final = frozenset(
    {
        "ProvisionedThroughputExceededException", "RequestLimitExceeded", "SlowDown", "Throttling",
        "ThrottlingException", "TooManyRequestsException",
    }
)  # fmt: skip


class TimedStore:
    """Stands for a head store or an object store, and records each call."""

    def __init__(self, port: Any, store: str, meters: Meters) -> None:
        """`store`: heads or objects."""
        self._port = port
        for operation in _OPERATIONS[store]:
            wrap = _timed_iterator if operation in _LAZY else _timed
            setattr(self, operation, wrap(getattr(port, operation), store, operation, meters))

    def __getattr__(self, name: str) -> Any:
        """What the port does not have, but the backend does."""
        return getattr(self._port, name)


def _timed(function: Callable[..., Any], store: str, operation: str, meters: Meters) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        started_s = time.perf_counter()
        try:
            return function(*args, **options)
        except StorageError as exc:
            meters.add(catalogue.STORE_ERRORS, store, operation, type(exc).__name__)
            raise
        finally:
            meters.observe(catalogue.STORE_SECONDS, time.perf_counter() - started_s, store, operation)

    return call


def _timed_iterator(
    function: Callable[..., Iterator[Any]], store: str, operation: str, meters: Meters
) -> Callable[..., Iterator[Any]]:
    def observe(seconds: float) -> None:
        meters.observe(catalogue.STORE_SECONDS, seconds, store, operation)

    def call(*args: Any, **options: Any) -> Iterator[Any]:
        started_s: float | None = time.perf_counter()
        try:
            for item in function(*args, **options):
                if started_s is not None:
                    observe(time.perf_counter() - started_s)
                    started_s = None
                yield item
        except StorageError as exc:
            meters.add(catalogue.STORE_ERRORS, store, operation, type(exc).__name__)
            raise
        finally:
            if started_s is not None:
                observe(time.perf_counter() - started_s)

    return call


class AwsWatch:
    """Hears from the SDK's clients of each attempt that was not a plain success."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    def __call__(self, client: Any) -> None:
        """Listen to one client. Attempts that succeed at once pass the SDK by (`storage.awsclient`)."""
        client.meta.events.register("response-received", self._note)

    def _note(self, event_name: str, **told: Any) -> None:
        """Source: botocore's `endpoint.py`, which emits `response-received` for each attempt."""
        _, service, operation = event_name.split(".", 2)
        if told["context"].get("retries", {}).get("attempt", 1) > 1:
            self._meters.add(catalogue.AWS_RETRIES, service, operation)
        if (error := told["exception"]) is not None:
            self._meters.add(catalogue.AWS_ERRORS, service, operation, type(error).__name__)
            return
        answer = told["parsed_response"] or {}
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(answer.get("Error", {}).get("Code", status))
        if code in _THROTTLED or status == 429:
            self._meters.add(catalogue.AWS_THROTTLES, service, operation)
        elif status >= 500 or status in {401, 403}:
            self._meters.add(catalogue.AWS_ERRORS, service, operation, code)
