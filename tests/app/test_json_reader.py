"""Structure is counted from bytes, and decoding fails in one way only."""

from __future__ import annotations

import json
import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import json_reader
from app.errors import PayloadTooLarge, ProtocolError
from app.json_reader import check_structure, is_deeper, measure, reader

JSONS = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(alphabet=string.ascii_letters + '[]{},"\\ä\n', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('[]{},"\\x', max_size=4), inner, max_size=4)
    ),
    max_leaves=30,
)


def counted(value: object) -> tuple[int, int]:
    """What `measure` should find, from the decoded value."""
    if not isinstance(value, dict | list):
        return 0, 0
    inner = [counted(one) for one in (value.values() if isinstance(value, dict) else value)]
    values = 1 + max(0, len(value) - 1) + sum(one[0] for one in inner)
    return values, 1 + max((one[1] for one in inner), default=0)


@given(JSONS)
def test_values_and_depth_are_those_of_the_decoded_message(value: object) -> None:
    for ascii_only in (True, False):
        assert measure(json.dumps(value, ensure_ascii=ascii_only).encode()) == counted(value)


@given(value=JSONS, block_bytes=st.integers(1, 9))
def test_what_is_carried_from_block_to_block_is_right(value: object, block_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_reader, "_BLOCK_BYTES", block_bytes)
        assert measure(json.dumps(value).encode()) == counted(value)


@given(st.binary(max_size=60))
def test_what_is_not_json_is_measured_without_an_error(payload: bytes) -> None:
    measure(payload)


def test_brackets_in_text_do_not_count() -> None:
    text = json.dumps(["[{," * 1000]).encode()
    check_structure(text, most_values=1)
    assert not is_deeper(text, 1)


def test_more_values_than_allowed_are_refused() -> None:
    check_structure(b"[1,2,3]", most_values=3)
    with pytest.raises(PayloadTooLarge, match="3 values, at most 2"):
        check_structure(b"[1,2,3]", most_values=2)


@pytest.mark.parametrize("payload", [b"[" * 128, b'[{"a":' * 64, b"[1]," + b"[" * 200])
def test_depth_is_found(payload: bytes) -> None:
    assert is_deeper(payload, 127)
    assert not is_deeper(payload, 200)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff", b'["\xff"]', b'["\xed\xa0\x80"]', b"[" * 100_000, b"[1e999]", b"[1", b'["\\ud800"', b"\0"],
)
def test_whatever_cannot_be_decoded_is_the_same_error(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="list of texts: "):
        reader(list[str], "list of texts")(payload)


def test_the_types_own_name_is_told() -> None:
    class Message(msgspec.Struct):
        a: int

    with pytest.raises(ProtocolError, match="Message: "):
        reader(Message)(b"{}")
