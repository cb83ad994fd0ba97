"""Decodes the JSON of requests. Used for the messages of both protocols and for headers.

`reader` decodes a typed message; `check_structure` limits the memory that decoding a payload can take,
before it is decoded.
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
"""Bytes that are examined at a time: a few arrays of this size are in memory."""

_QUOTE, _COMMA = ord('"'), ord(",")


@functools.cache
def _steps() -> Any:
    """Byte -> change of the nesting depth by it, outside of strings."""
    steps = np.zeros(256, np.int8)
    steps[[ord("["), ord("{")]] = 1
    steps[[ord("]"), ord("}")]] = -1
    return steps


def reader(kind: type[M], name: str | None = None) -> Callable[[bytes | str], M]:
    """A function that decodes JSON as `kind`.

    It raises ProtocolError for anything that cannot be decoded: syntax, types, numbers out of range, nesting,
    text that is not UTF-8.
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
    """An upper bound of the Python objects that decoding a payload creates; `most_values` are allowed.

    Each `[`, `{` and `,` outside of strings counts as one. Fast for ordinary messages: strings are
    examined only if the count with strings is above the limit.

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
    """Whether arrays and objects are nested more than `most` levels deep."""
    return payload.count(b"[") + payload.count(b"{") > most and measure(payload)[1] > most


def measure(payload: bytes) -> tuple[int, int]:
    """(number of `[`, `{` and `,` outside of strings, greatest depth).

    Nothing is decoded: the bytes are examined in blocks, and whether a string is open, and the depth, are
    carried over from block to block. For invalid JSON the result is meaningless, and the decoder rejects
    it anyway.
    """
    if b"\\" in payload:  # escapes occur in strings only; without them every quote opens or closes a string
        # First the escaped backslashes: the one in `\\"` does not escape the quote.
        payload = payload.replace(b"\\\\", b"").replace(b'\\"', b"")
    values, depth, deepest, in_string = 0, 0, 0, False
    for start in range(0, len(payload), _BLOCK_BYTES):
        block = np.frombuffer(payload, np.uint8, min(_BLOCK_BYTES, len(payload) - start), start)
        # The parity of the number of quotes so far: True from an opening quote to the byte before the
        # closing one.
        inside = np.logical_xor.accumulate(block == _QUOTE)
        # The block starts inside of a string: what looked outside is inside, and the reverse.
        if in_string:
            inside = ~inside
        in_string = bool(inside[-1])
        outside = block[~inside]
        steps = _steps()[outside]
        values += int(np.count_nonzero(outside == _COMMA)) + int(np.count_nonzero(steps > 0))
        steps = steps[steps != 0]
        if len(steps):
            # The depth after each bracket.
            path = np.cumsum(steps, dtype=np.int64) + depth
            deepest, depth = max(deepest, int(path.max())), int(path[-1])
    return values, deepest
