"""What is kept of a sync that failed: a small object beside those of its database, as long as versions."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator

import msgspec

from storage.database.format import envelope, keys
from storage.errors import Corrupt
from storage.objects.base import ObjectStore
from storage.types import DatabaseId

_BATCH = 50
_LONGEST_TEXT = 600

log = logging.getLogger(__name__)


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request that failed, and its sync with it. Fields that a reader does not know are passed over."""

    time_ms: int
    method: str
    """The step of the sync, by the protocol's name."""
    device: str = ""
    """Id of the host key."""
    client: str = ""
    """The client's own words about itself."""
    status: int = 0
    """Of HTTP; some refusals are answered under 200."""
    error: str = ""
    """The name of the error's class."""
    text: str = ""


def failure_object(database: DatabaseId, failure: Failure, nonce: str) -> tuple[str, bytes]:
    """Key and content of the object that keeps a failure."""
    failure = msgspec.structs.replace(failure, text=failure.text[:_LONGEST_TEXT])
    return (
        keys.failure_key(database, failure.time_ms, nonce),
        envelope.seal(envelope.FAILURE, msgspec.msgpack.encode(failure)),
    )


def list_failures(objects: ObjectStore, database: DatabaseId) -> Iterator[Failure]:
    """The failures that are kept of one database, oldest first; what cannot be read is logged."""
    found = objects.list(keys.failure_prefix(database))
    while batch := [stat.key for stat in itertools.islice(found, _BATCH)]:
        for key, content in zip(batch, objects.read_many(batch), strict=True):
            if content is not None and (failure := _read(key, content)) is not None:
                yield failure


def _read(key: str, content: bytes) -> Failure | None:
    try:
        return msgspec.msgpack.decode(envelope.unseal(key, envelope.FAILURE, content), type=Failure)
    except (Corrupt, msgspec.MsgspecError) as exc:
        log.warning("a failure cannot be read: %s", exc)
        return None
