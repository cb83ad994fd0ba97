"""Pages are read many at a time as they are read one by one, wherever they lie."""

from __future__ import annotations

import random

import pytest

from storage.database.format.pages import lock_page
from storage.database.local.image import Image, Layout
from storage.database.local.wal import encode_frames, new_log

SIZE = 512


@pytest.fixture
def make_image(tmp_path):
    """Makes an image of so many pages, of which the base has some, and the log those named, in order."""
    opened = []

    def make(count, base_pages, in_log):
        chance = random.Random(count)
        (tmp_path / "base").write_bytes(chance.randbytes(base_pages * SIZE))
        header, state = new_log(SIZE, bytes(8))
        frames, after = encode_frames(state, in_log, chance.randbytes(len(in_log) * SIZE), count)
        (tmp_path / "log").write_bytes(header + frames)
        offsets = {number: state.page_offset(at) for at, number in enumerate(in_log)}
        layout = Layout(SIZE, count, 0, base_pages, offsets, after)
        opened.append(Image(tmp_path / "base", tmp_path / "log", layout))
        return opened[-1]

    yield make
    for image in opened:
        image.close()


def one_by_one(image, numbers):
    return b"".join(map(image.page, numbers))


@pytest.mark.parametrize("seed", range(50))
def test_any_pages_are_the_same(make_image, seed):
    chance = random.Random(seed)
    count = chance.choice([10, 200])
    in_log = chance.sample(range(1, count + 1), chance.randrange(1, count))
    if chance.random() < 0.5:
        in_log.sort()
    image = make_image(count, chance.randrange(1, count + 1), in_log)
    for numbers in (range(1, count + 1), sorted(chance.sample(range(1, count + 1), chance.randrange(count)))):
        assert bytes(image.pages(numbers)) == one_by_one(image, numbers)


def test_a_run_of_more_frames_than_one_call_reads_is_whole(make_image):
    numbers = list(range(1, 1301))
    image = make_image(1300, 1, numbers)
    assert bytes(image.pages(numbers)) == one_by_one(image, numbers)


def test_the_page_that_sqlite_never_uses_is_zeros(make_image, tmp_path):
    skipped = lock_page(SIZE)
    image = make_image(skipped + 2, 1, [skipped - 1, skipped, skipped + 1])
    numbers = [skipped - 1, skipped, skipped + 1]
    found = bytes(image.pages(numbers))
    assert found[SIZE : 2 * SIZE] == bytes(SIZE)
    assert found[:SIZE] == image.page(skipped - 1)
    assert found[2 * SIZE :] == image.page(skipped + 1)


@pytest.mark.parametrize("file", ["base", "log"])
def test_files_that_are_cut_short_are_an_error(make_image, tmp_path, file):
    image = make_image(20, 10, list(range(11, 21)))
    with (tmp_path / file).open("r+b") as opened:
        opened.truncate(9 * SIZE)
    with pytest.raises(OSError, match="cut short"):
        image.pages(range(1, 21))
