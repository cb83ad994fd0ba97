"""Damaged uploads: noticed, or of no harm to any later step."""

from __future__ import annotations

import random

import pytest

from storage.collection.engine.downgrade import downgrade
from storage.errors import InvalidDatabase


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bytes_are_noticed_or_do_no_harm(upload, admitted, seed, exercise):
    source = random.Random(seed)
    path = upload()
    content = bytearray(path.read_bytes())
    for _ in range(source.choice([1, 1, 2, 10])):
        at = source.choice([source.randrange(len(content)), source.randrange(100), source.randrange(8192)])
        content[at] = source.choice([source.randrange(256), content[at] ^ (1 << source.randrange(8)), 0, 255])
    path.write_bytes(content)
    try:
        into = admitted(path)
    except InvalidDatabase:
        return
    exercise(into)
    downgrade(into)


@pytest.mark.parametrize("seed", range(30))
def test_flipped_bytes_in_untidy_files_are_noticed_or_do_no_harm(
    upload, admitted, seed, assert_sound, exercise
):
    source = random.Random(seed)
    path = upload("CREATE TABLE mine (x)") if seed % 2 else upload(pragmas=["page_size = 1024"])
    content = bytearray(path.read_bytes())
    for _ in range(source.choice([1, 2, 10])):
        at = source.choice([source.randrange(len(content)), source.randrange(8192)])
        content[at] = source.randrange(256)
    path.write_bytes(content)
    try:
        into = admitted(path)
    except InvalidDatabase:
        return
    assert_sound(into)
    exercise(into)
