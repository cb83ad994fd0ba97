"""The messages of the collection protocol, and how they are decoded. No other module has wire names.

The types are those of the structs under rslib/src/sync/collection of ankitects/anki, so messages are
accepted or rejected, and numbers wrapped and rounded, as by the official server. There are two
differences. Rows as objects and structs as arrays, which its JSON library accepts and no client sends, are
rejected; and a key that occurs twice, which it rejects, is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta, Struct, field

from app.errors import ProtocolError
from app.json_reader import is_deeper, reader

U8 = Annotated[int, Meta(ge=0, le=2**8 - 1)]
U16 = Annotated[int, Meta(ge=0, le=2**16 - 1)]
U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
I32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
I64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
CardType = Annotated[int, Meta(ge=0, le=3)]
CardQueue = Annotated[int, Meta(ge=-3, le=4)]

JsonObject = dict[str, Any]

META, START, ABORT = "meta", "start", "abort"
APPLY_GRAVES, APPLY_CHANGES, APPLY_CHUNK = "applyGraves", "applyChanges", "applyChunk"
CHUNK, SANITY_CHECK, FINISH = "chunk", "sanityCheck2", "finish"
"""The methods: the last part of the request's path."""

DEEPEST = 127
"""The deepest nesting of arrays and objects that official clients can parse."""


class EmptyRequest(Struct, forbid_unknown_fields=True):
    """The `{}` of methods without arguments; keys are rejected."""

    pad: None = field(name="_pad", default=None)


class _EmptyArray(Struct, array_like=True, forbid_unknown_fields=True):
    pad: None = None


class MetaRequest(Struct):
    """Protocol version and name of the client."""

    version: U8 = field(name="v")
    client: str = field(name="cv")


class MetaAnswer(Struct):
    """The data by which the client chooses between no sync, a normal one and a full one."""

    mod_ms: int = field(name="mod")
    schema_ms: int = field(name="scm")
    usn: int
    now_s: int = field(name="ts")
    message: str = field(name="msg")
    go_on: bool = field(name="cont")
    host_number: int = field(name="hostNum")
    empty: bool
    media_usn: int


class Graves(Struct):
    """Ids of deleted objects."""

    cards: list[I64]
    decks: list[I64]
    notes: list[I64]


class _StringGraves(Struct):
    """Old AnkiMobile versions send the ids as strings."""

    cards: list[str]
    decks: list[str]
    notes: list[str]


class StartRequest(Struct):
    """The start of a sync. AnkiDroid sends its `graves` with it."""

    client_usn: I32 = field(name="minUsn")
    client_is_newer: bool = field(name="lnewer")
    graves: Graves | None = None


class _StringStartRequest(Struct):
    client_usn: I32 = field(name="minUsn")
    client_is_newer: bool = field(name="lnewer")
    graves: _StringGraves


class ApplyGravesRequest(Struct):
    """Some of the client's deletions."""

    graves: Graves = field(name="chunk")


class ChangesMessage(Struct, omit_defaults=True):
    """All changed objects that are not sent in chunks, of either side."""

    notetypes: list[JsonObject] = field(name="models")
    decks_and_options: tuple[list[JsonObject], list[JsonObject]] = field(name="decks")
    tags: list[str]
    config: JsonObject | None = field(name="conf", default=None)
    created_s: I64 | None = field(name="crt", default=None)


class ApplyChangesRequest(Struct):
    """The client's changed objects."""

    changes: ChangesMessage


RevlogRow = tuple[I64, I64, I32, U8, I32, I32, U32, U32, Annotated[int, Meta(ge=0, le=5)]]
"""id, cid, usn, ease, ivl, lastIvl, factor, time, type."""

CardRow = tuple[
    I64, I64, I64, U16, I64, I32, CardType, CardQueue, I32, U32, U16, U32, U32, U32, I32, I64, U8, str
]
"""id, nid, did, ord, mod, usn, type, queue, due, ivl, factor, reps, lapses, left, odue, odid, flags, data."""

NoteRow = tuple[I64, str, I64, I64, I32, str, str, str, str, U32, str]
"""id, guid, mid, mod, usn, tags, flds, sfld, csum, flags, data. sfld and csum are strings, and ignored."""


class ChunkMessage(Struct, omit_defaults=True):
    """Some of the server's changed rows; empty lists are omitted."""

    done: bool
    revlog: Sequence[Sequence[Any]] = []
    cards: Sequence[Sequence[Any]] = []
    notes: Sequence[Sequence[Any]] = []


class ReceivedChunk(Struct):
    """Some of the client's changed rows; all keys are optional."""

    done: bool = False
    revlog: list[RevlogRow] = []
    cards: list[CardRow] = []
    notes: list[NoteRow] = []


class ApplyChunkRequest(Struct):
    """Some of the client's changed rows."""

    chunk: ReceivedChunk


class SanityCounts(Struct, array_like=True, forbid_unknown_fields=True):
    """Row counts of one side. The due counts always differ, and are set to 0."""

    due: tuple[U32, U32, U32]
    cards: U32
    notes: U32
    revlog: U32
    graves: U32
    notetypes: U32
    decks: U32
    deck_options: U32


class SanityRequest(Struct):
    """The client's counts."""

    client: SanityCounts


class SanityAnswer(Struct):
    """Whether both sides have the same numbers of rows; `server` is None if a row has USN -1."""

    status: str
    client: SanityCounts = field(name="c")
    server: SanityCounts | None = field(name="s")


_Loose = int | float
_LooseRevlogRow = list[Any]
_LooseCardRow = tuple[
    I64, I64, I64, U16, _Loose, I32, CardType, CardQueue, _Loose, _Loose,
    U16, U32, U32, U32, _Loose, I64, U8, str,
]  # fmt: skip


class _LooseChunk(Struct):
    """A chunk of old clients, with floats and numbers out of range where the official server accepts them."""

    done: bool = False
    revlog: list[_LooseRevlogRow] = []
    cards: list[_LooseCardRow] = []
    notes: list[NoteRow] = []


class _LooseChunkRequest(Struct):
    chunk: _LooseChunk


encode: Callable[[object], bytes] = msgspec.json.Encoder(order="deterministic").encode
"""Encode an answer as JSON; equal answers give equal bytes, whatever the order of their dicts."""


read_meta = reader(MetaRequest)
read_apply_graves = reader(ApplyGravesRequest)
read_sanity = reader(SanityRequest)

_read_object = reader(EmptyRequest)
_read_array = reader(_EmptyArray)
_read_start = reader(StartRequest)
_read_string_start = reader(_StringStartRequest)
_read_changes = reader(ApplyChangesRequest)
_read_chunk = reader(ApplyChunkRequest)
_read_loose_chunk = reader(_LooseChunkRequest)


def read_empty(payload: bytes) -> EmptyRequest:
    """Read the request of a method without arguments: `{}` or `[]`."""
    try:
        return _read_object(payload)
    except ProtocolError:
        _read_array(payload)
        return EmptyRequest()


def read_apply_changes(payload: bytes) -> ApplyChangesRequest:
    """Read the client's changed objects; they must not be nested more deeply than other clients can parse."""
    if is_deeper(payload, DEEPEST):
        raise ProtocolError("objects are nested too deeply")
    return _read_changes(payload)


def read_start(payload: bytes) -> StartRequest:
    """Read the start of a sync; ids of graves may be integers or strings (old AnkiMobile)."""
    try:
        return _read_start(payload)
    except ProtocolError:
        request = _read_string_start(payload)
    wire = request.graves
    graves = Graves(_numbers(wire.cards), _numbers(wire.decks), _numbers(wire.notes))
    return StartRequest(request.client_usn, request.client_is_newer, graves)


def _numbers(words: list[str]) -> list[int]:
    # Limited in length: int() of a very long string is slow.
    if not all(re.fullmatch(r"[+-]?[0-9]{1,40}", word) for word in words):
        raise ProtocolError("graves are no numbers")
    numbers = [int(word) for word in words]
    if not all(-(2**63) <= number < 2**63 for number in numbers):
        raise ProtocolError("graves are out of range")
    return numbers


def read_apply_chunk(payload: bytes) -> ApplyChunkRequest:
    """Read rows of the client. If they are not of the exact types, they are converted one by one."""
    try:
        return _read_chunk(payload)
    except ProtocolError:
        loose = _read_loose_chunk(payload).chunk
    cards = [_tighten_card(row) for row in loose.cards]
    revlog = [_tighten_revlog(row) for row in loose.revlog]
    return ApplyChunkRequest(ReceivedChunk(loose.done, revlog, cards, loose.notes))


def _tighten_card(row: tuple[Any, ...]) -> CardRow:
    # The columns that old clients may send as floats or out of range.
    mod, due, interval, old_due = row[4], row[8], row[9], row[14]
    numbers = (*row[:4], _whole(mod), *row[5:8], _to_i32(due), _to_u32(interval), *row[10:14])
    return (*numbers, _to_i32(old_due), *row[15:])


def _tighten_revlog(row: list[Any]) -> RevlogRow:
    """The last column, the kind, may be missing or invalid: the official server then uses 0."""
    if len(row) not in {8, 9} or not all(
        isinstance(x, _Loose) and x is not True and x is not False for x in row[:8]
    ):
        raise ProtocolError("revlog row is no row of numbers")
    # A row of 8 columns has no kind.
    kind = row[8] if len(row) == 9 and type(row[8]) is int and 0 <= row[8] <= 5 else 0
    intervals = (_to_i32(row[4]), _to_i32(row[5]), _to_u32(row[6]), _to_u32(row[7]))
    try:
        return cast("RevlogRow", msgspec.convert((*row[:4], *intervals, kind), RevlogRow))
    except msgspec.ValidationError as exc:
        raise ProtocolError(f"revlog row: {exc}") from exc


def _whole(number: float) -> int:
    """As Rust's `as i64`: rounded towards zero, and limited to the range."""
    return max(-(2**63), min(2**63 - 1, int(number)))


def _to_i32(number: float) -> int:
    """As Rust's `as i32` of an i64: the low 32 bits."""
    return (_whole(number) + 2**31) % 2**32 - 2**31


def _to_u32(number: float) -> int:
    """As Rust's `as u32` of an i64, but 0 for negative numbers."""
    return max(0, _whole(number)) % 2**32
