"""Read the JSON that clients send: the one place where bytes of a request become values.

`reader` decodes a typed message; `check_structure` bounds what a payload can become in memory, from its bytes
and before anything is decoded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from app.errors import PayloadTooLarge, ProtocolError
from storage.lazy import LazyModule

if TYPE_CHECKING:
    import numpy as np
else:
    np = LazyModule("numpy")

M = TypeVar("M")

_BLOCK_BYTES = 1024 * 1024
"""Bytes that are looked at together: a few arrays of this size exist at a time."""

_QUOTE, _COMMA = ord('"'), ord(",")


@functools.cache
def _steps() -> Any:
    """How much deeper each byte leads when it stands outside of strings."""
    steps = np.zeros(256, np.int8)
    steps[[ord("["), ord("{")]] = 1
    steps[[ord("]"), ord("}")]] = -1
    return steps


def reader(kind: type[M], name: str | None = None) -> Callable[[bytes | str], M]:
    """A function that decodes JSON as `kind`.

    It raises ProtocolError for everything that cannot be decoded, whatever the reason: syntax, types, numbers
    out of range, nesting, text that is not UTF-8.
    """
    decode = msgspec.json.Decoder(kind).decode
    name = name or kind.__name__

    def read(payload: bytes | str) -> M:
        try:
            message: M = decode(payload)
        except (ValueError, RecursionError) as exc:  # ValueError includes the errors of msgspec and of UTF-8
            raise ProtocolError(f"{name}: {exc}") from exc
        return message

    return read


def check_structure(payload: bytes, *, most_values: int) -> int:
    """Refuse a payload that would become more than `most_values` Python objects; returns how many at most.

    An object is counted for each `[`, `{` and `,` outside of strings. Cheap for ordinary messages: the exact
    count is made only if that of all bytes is above the limit.

    Raises: PayloadTooLarge.
    """
    if len(payload) <= most_values:
        return len(payload)
    values = payload.count(b",") + payload.count(b"[") + payload.count(b"{")
    if values > most_values:
        values, _ = measure(payload)
    if values > most_values:
        raise PayloadTooLarge(f"the message has {values} values, at most {most_values} are allowed")
    return values


def is_deeper(payload: bytes, most: int) -> bool:
    """Whether arrays and objects stand more than `most` deep in each other."""
    return payload.count(b"[") + payload.count(b"{") > most and measure(payload)[1] > most


def measure(payload: bytes) -> tuple[int, int]:
    """Count the values (`[`, `{` and `,` outside of strings), and find the greatest depth.

    Nothing is decoded: the bytes are walked in blocks, with the state of a string and the depth carried over.
    For what is not JSON the figures mean nothing, and the decoder refuses it anyway.
    """
    if b"\\" in payload:  # escapes stand in strings only; without them every quote opens or closes one
        payload = payload.replace(b"\\\\", b"").replace(b'\\"', b"")
    values, depth, deepest, in_string = 0, 0, 0, False
    for start in range(0, len(payload), _BLOCK_BYTES):
        block = np.frombuffer(payload, np.uint8, min(_BLOCK_BYTES, len(payload) - start), start)
        # True from an opening quote up to the byte before the closing one.
        inside = np.logical_xor.accumulate(block == _QUOTE)
        if in_string:
            inside = ~inside
        in_string = bool(inside[-1])
        outside = block[~inside]
        steps = _steps()[outside]
        values += int(np.count_nonzero(outside == _COMMA)) + int(np.count_nonzero(steps > 0))
        steps = steps[steps != 0]
        if len(steps):
            path = np.cumsum(steps, dtype=np.int64) + depth
            deepest, depth = max(deepest, int(path.max())), int(path[-1])
    return values, deepest
