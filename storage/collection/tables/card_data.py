"""Normalises the `data` column of cards, a small JSON object, as the official engine does on each sync.

Used by `cards`. Known keys are kept, in a fixed order, with rounded 32-bit floats; anything unreadable
becomes `{}`. Source: rslib/src/storage/card/data.rs of the official source.
"""

from __future__ import annotations

import math
import re
import struct
from typing import Any

import msgspec

_KEYS = ("pos", "s", "d", "dr", "decay", "lrt", "cd")

_PLACES = {"s": 4, "d": 3, "dr": 2, "decay": 3}

_COUNT = r"(?:0|[1-9]\d{0,8})"
_MORE = r"(?:,(?=\")|(?=\}))"


def _decimal(whole: str, places: int) -> str:
    return rf"(?:{whole})\.(?:0|\d{{0,{places - 1}}}[1-9])"


_CANONICAL = re.compile(
    r"\{"
    rf"(?:\"pos\":{_COUNT}{_MORE})?"
    rf"(?:\"s\":{_decimal('[1-9]?[0-9]|[1-3][0-9][0-9]', 4)},\"d\":{_decimal('[1-9]?[0-9]', 3)}{_MORE})?"
    rf"(?:\"dr\":{_decimal('[0-9]', 2)}{_MORE})?"
    rf"(?:\"decay\":{_decimal('[0-9]', 3)}{_MORE})?"
    rf"(?:\"lrt\":(?:0|[1-9]\d{{0,11}}){_MORE})?"
    r"(?:\"cd\":(?!\"\{\}\")\"(?:[^\"\\\x00-\x1f]|\\\")+\")?"
    r"\}"
)
"""Matches data that is normalised already, which is what clients usually send.

A decimal of so few digits (below 2^22 in units of its last place) is not changed by the rounding to a
32-bit float, and is the shortest one for its number; so it can be recognised by its text.
"""

_decode = msgspec.json.decode
_encode = msgspec.json.encode
_float32 = struct.Struct("<f")


def canonical(data: str) -> str:
    """The column as the engine would write it back."""
    if _CANONICAL.fullmatch(data):
        return data
    if not data:
        return "{}"
    try:
        found = _decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return "{}"
    # serde, the engine's JSON library, also reads a struct from an array.
    if isinstance(found, list) and len(found) <= len(_KEYS):
        found = dict(zip(_KEYS, found, strict=False))
    if not isinstance(found, dict) or not isinstance(found.get("cd", ""), str):
        return "{}"
    return "{" + ",".join(_members(found)) + "}"


def _members(found: dict[str, Any]) -> list[str]:
    members = []
    position = found.get("pos")
    if type(position) is int and 0 <= position < 2**32:
        members.append(f'"pos":{position}')
    numbers = {key: _rounded(found.get(key), places) for key, places in _PLACES.items()}
    if numbers["s"] is None or numbers["d"] is None:
        del numbers["s"], numbers["d"]  # a memory state has both
    members += [f'"{key}":{number}' for key, number in numbers.items() if number is not None]
    last_review = found.get("lrt")
    if type(last_review) is int and -(2**63) <= last_review < 2**63:
        members.append(f'"lrt":{last_review}')
    if found.get("cd", "") not in ("", "{}"):
        members.append(f'"cd":{_encode(found["cd"]).decode()}')
    return members


def _rounded(number: Any, places: int) -> str | None:
    """The number as JSON, rounded in 32-bit arithmetic; None if it is not a number."""
    if type(number) not in (int, float):
        return None
    factor = 10.0**places
    # Each operation is rounded to 32 bits, as in Rust's f32 arithmetic.
    product = _as_float32(_as_float32(number) * factor)
    if math.isinf(product):
        # serde writes infinity as null.
        return "null"
    whole = math.copysign(math.floor(abs(product) + 0.5), product)
    return _shortest(_as_float32(whole / factor))


def _as_float32(number: float) -> float:
    try:
        return float(_float32.unpack(_float32.pack(number))[0])
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _shortest(number: float) -> str:
    """The shortest decimal that parses to this 32-bit float, in the engine's notation."""
    # 9 digits always suffice for a 32-bit float.
    for digits in (6, 7, 8, 9):
        text = f"{number:.{digits - 1}e}"
        if _as_float32(float(text)) == number:
            break
    mantissa, exponent = text.split("e")
    power = int(exponent)
    if -6 < power + 1 <= 13:
        fixed = f"{float(text):.{max(1, digits - 1 - power)}f}"
        whole, _, fraction = fixed.partition(".")
        return f"{whole}.{fraction.rstrip('0') or '0'}"
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{power}"
