"""Registering many tags: the same list as the official server's, at a cost that fits their number."""

from __future__ import annotations

import random

import pytest

from storage.collection.records import Changes
from storage.collection.schema import compare_unicase
from storage.collection.tables import tags
from storage.collection.tally import Tally

MANY = 3_000


def _random_tags(source, count):
    letters = [
        "a",
        "A",
        "b",
        "ß",
        "SS",
        "ss",
        "é",
        "e\u0301",
        "I",
        "ı",
        ":",
        "::",
        "::",
        " ",
        "\u3000",
        "\x7f",
        "!",
    ]
    return ["".join(source.choices(letters, k=source.randrange(1, 7))) for _ in range(count)]


@pytest.mark.parametrize("count", [60, MANY])
def test_random_tags_are_registered_as_the_official_server_does(duel, base_file, session, count):
    source = random.Random(count)
    known = ["Animal", "ANIMAL::cat", "animal::Dog::Puppy", "n1::x", "ANIMAL::DOG"]
    sent = session(
        min_usn=11, tags=[*_random_tags(source, count), *known, *_random_tags(source, count // 10)]
    )
    assert duel.ours(base_file, sent).tables["tags"] == duel.official(base_file, sent).tables["tags"]


def test_a_tag_that_is_there_in_another_case_keeps_its_row(ours):
    before = ours.rows("SELECT * FROM tags")
    ours.merge.apply_changes(Changes(tags=[tag.upper() for tag, *_ in before]), 10, 0)
    assert ours.rows("SELECT * FROM tags") == before


@pytest.mark.parametrize("again", [False, True])
def test_many_tags_cost_few_comparisons_each(ours, again):
    names = [f"deck::step{at % 7}::topic{at % 313}::sub{at}" for at in range(MANY)]
    if again:
        tags.register(ours.db, Tally(ours.stamps_before), names, 10)
    compared = 0

    def compare(left, right):
        nonlocal compared
        compared += 1
        return compare_unicase(left, right)

    ours.db.create_collation("unicase", compare)
    tags.register(ours.db, Tally(ours.stamps_before), names, 10)
    assert ours.rows("SELECT count() FROM tags WHERE tag LIKE 'deck::%'") == [(MANY,)]
    assert compared < 10 * MANY


@pytest.mark.parametrize("others", [0, MANY])
def test_a_tag_of_very_many_levels_is_not_looked_at_level_by_level(ours, monkeypatch, others):
    yielded = 0

    def parents(tag, inner=tags._parents):
        nonlocal yielded
        for parent in inner(tag):
            yielded += 1
            yield parent

    monkeypatch.setattr(tags, "_parents", parents)
    deep = "A::" * 20_000 + "b"
    tags.register(ours.db, Tally(ours.stamps_before), [deep, *(f"c{at}" for at in range(others))], 10)
    assert ours.rows("SELECT tag FROM tags WHERE tag LIKE 'A::A::%'") == [(deep,)]
    assert yielded < 500


def test_a_list_too_large_for_memory_is_asked_name_by_name(ours, monkeypatch):
    monkeypatch.setattr(tags, "_MOST_BYTES_IN_MEMORY", 100)
    names = ["animal", "ANIMAL::Bird", *(f"new{at}" for at in range(MANY))]
    tags.register(ours.db, Tally(ours.stamps_before), names, 10)
    found = [tag for (tag,) in ours.rows("SELECT tag FROM tags WHERE usn = 10")]
    assert len(found) == MANY + 1
    assert "Animal::Bird" in found
