"""The methods of the collection protocol, and how those that change a running sync are read and done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.sync import changes, chunks, graves, messages, start
from app.sync.state import SyncState


class SyncMethod(StrEnum):
    """The last part of the path, as clients write it."""

    HOST_KEY = "hostKey"
    META = "meta"
    START = "start"
    APPLY_GRAVES = "applyGraves"
    APPLY_CHANGES = "applyChanges"
    CHUNK = "chunk"
    APPLY_CHUNK = "applyChunk"
    SANITY_CHECK = "sanityCheck2"
    FINISH = "finish"
    ABORT = "abort"
    UPLOAD = "upload"
    DOWNLOAD = "download"


@dataclass(frozen=True, slots=True)
class Step:
    """One journalled method: how to read its request, and what to do with it."""

    method: SyncMethod
    read: Callable[[bytes], Any]
    take: Callable[[Any, SyncState], object]
    is_repeatable: bool = True
    """Whether the same bytes twice running are one request sent twice. Two of `chunk` are not."""


STEPS: dict[str, Step] = {
    step.method: step
    for step in (
        Step(SyncMethod.START, messages.read_start, start.start),
        Step(SyncMethod.APPLY_GRAVES, messages.read_apply_graves, graves.apply_graves),
        Step(SyncMethod.APPLY_CHANGES, messages.read_apply_changes, changes.apply_changes),
        Step(SyncMethod.CHUNK, messages.read_empty, chunks.chunk, is_repeatable=False),
        Step(SyncMethod.APPLY_CHUNK, messages.read_apply_chunk, chunks.apply_chunk),
    )
}
