"""Many objects in one sync, and in a collection."""

from __future__ import annotations

import pytest

from tests.conformance.device import NEWEST, Device, assert_same, converge

START = 1_500_000_000_000
COUNT = 5_200


@pytest.mark.thorough
def test_thousands_of_objects_travel_both_ways(pair: tuple[Device, Device]) -> None:
    a, b = pair
    for number, (sender, receiver) in enumerate(((a, b), (b, a))):
        start = START + number * 100_000
        sender.bulk_notes(COUNT, start, f"word{number}x")
        sender.bulk_revlog(COUNT, start, start)
        assert sender.pending() >= 3 * COUNT
        sender.settle()
        assert sender.pending() == 0
        receiver.settle()
        assert receiver.rows("select count() from notes where id >= ?", start)[0][0] >= COUNT
    converge(a, b)
    assert_same(a, b)


@pytest.mark.thorough
def test_thousands_of_deletions_travel_both_ways(pair: tuple[Device, Device]) -> None:
    a, b = pair
    a.bulk_notes(COUNT, START, "many")
    converge(a, b)
    ids = [START + i for i in range(COUNT)]
    a.remove_notes(ids[: COUNT // 2])
    a.settle()
    b.remove_notes(ids[COUNT // 2 :])
    converge(b, a)
    assert_same(a, b)
    assert a.rows("select count() from notes where id between ? and ?", ids[0], ids[-1]) == [[0]]


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(count, marks=() if count in {250, 251} else pytest.mark.thorough)
        for count in (249, 250, 251, 252, 500, 750)
    ],
)
@pytest.mark.parametrize("versions", [(NEWEST, NEWEST)], ids=["newest"])
def test_counts_at_the_edge_of_a_chunk_travel(pair: tuple[Device, Device], count: int) -> None:
    a, b = pair
    a.bulk_revlog(count, START, 1)
    converge(a, b)
    b.bulk_notes(count // 2, START, "edge")
    converge(b, a)
    assert_same(a, b)


@pytest.mark.parametrize("versions", [(NEWEST, NEWEST)], ids=["newest"])
def test_hundreds_of_decks_tags_and_notetypes_travel(pair: tuple[Device, Device]) -> None:
    a, b = pair
    for i in range(150):
        a.add_deck(f"Tree {i % 10}::Branch {i}")
    for i in range(20):
        b.add_notetype(f"Kind {i}", [f"F{n}" for n in range(1 + i % 5)])
    a.add_notes([["tagged", ""]], tags=[f"t::{i}" for i in range(400)])
    converge(a, b)
    assert_same(a, b)
    assert a.blobs() == b.blobs()
