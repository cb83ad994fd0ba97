"""What a collection promises beyond the merge: counts, stamps, named indexes, the end of a sync."""

from __future__ import annotations

import time

import pytest

from storage.collection.collection import Collection
from storage.collection.errors import InvalidChange
from storage.collection.records import Changes, Chunk, ChunkIds, ChunkPosition, Graves
from storage.collection.stamps import read_stamps


def card(card_id, usn=10, mod=5):
    return (card_id, 1, 1, 0, mod, usn, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, "")


def review(review_id, usn=10):
    return (review_id, 1, usn, 3, 1, 1, 2500, 1000, 1)


def test_counts_follow_what_is_written(ours):
    before = ours.merge.counts()
    assert before == ours.merge.recount()
    ours.merge.apply_chunk(Chunk(revlog=[review(5), review(5), review(1000)], cards=[card(50), card(60)]), 0)
    ours.merge.apply_chunk(Chunk(cards=[card(50, mod=9)]), 0)
    ours.merge.apply_graves(Graves(cards=[60, 404], notes=[405], decks=[]), 10)
    after = ours.merge.counts()
    cards, notes, revlog, graves, *_ = (b - a for a, b in zip(before, after, strict=True))
    assert (cards, notes, revlog, graves) == (1, 0, 1, 3)
    assert after == ours.merge.recount()


def test_a_recount_repairs_what_was_carried_wrongly(ours, codec):
    wrong = Collection(ours.db, codec, ours.stamps_before | {"cards": 12345})
    assert wrong.counts()[0] == 12345
    assert wrong.recount() == ours.merge.counts()
    assert wrong.stamps()["cards"] == ours.merge.counts()[0]


@pytest.mark.parametrize("write", ["cards", "revlog", "graves", "decks", "tags"])
def test_a_row_that_was_never_sent_is_noticed(ours, write):
    assert not ours.merge.has_unsynced()
    match write:
        case "cards":
            ours.merge.apply_chunk(Chunk(cards=[card(5, usn=-1)]), 0)
        case "revlog":
            ours.merge.apply_chunk(Chunk(revlog=[review(5, usn=-1)]), 0)
        case "graves":
            ours.merge.apply_graves(Graves(cards=[5]), -1)
        case "decks":
            (deck,) = ours.unseen(0).changes(with_config=False).decks[:1]
            ours.merge.apply_changes(Changes(decks=[deck | {"usn": -1, "mod": 2**31}]), 10, 0)
        case "tags":
            ours.merge.apply_changes(Changes(tags=["fresh"]), -1, 0)
    assert ours.merge.has_unsynced()
    assert ours.merge.stamps()["unsynced"]


def test_a_row_that_was_overwritten_is_no_longer_unsynced(ours):
    ours.merge.apply_chunk(Chunk(cards=[card(5, usn=-1)]), 0)
    ours.merge.apply_chunk(Chunk(cards=[card(5, usn=10, mod=6)]), 100)
    assert not ours.merge.has_unsynced()


def test_a_collection_without_suspicion_is_not_searched(ours):
    ours.db.execute("UPDATE cards SET usn = -1")
    assert not ours.merge.has_unsynced()


def test_the_end_of_a_sync_moves_time_and_usn(ours):
    usn = ours.merge.usn
    ours.merge.finish(1_700_000_000_123)
    assert ours.rows("SELECT mod, ls, usn FROM col") == [(1_700_000_000_123, 1_700_000_000_123, usn + 1)]
    assert ours.merge.stamps()["mod"] == 1_700_000_000_123


def test_a_download_moves_the_usn_and_the_time_of_change_on(ours):
    [(_, ls, scm, usn)] = ours.rows("SELECT mod, ls, scm, usn FROM col")
    ours.merge.mark_downloaded(1_900_000_000_000)
    assert ours.rows("SELECT mod, ls, scm, usn FROM col") == [(1_900_000_000_000, ls, scm, usn + 1)]
    assert ours.merge.stamps()["mod"] == 1_900_000_000_000


def test_a_download_moves_the_time_of_change_on_where_the_clock_went_back(ours):
    [(mod,)] = ours.rows("SELECT mod FROM col")
    ours.merge.mark_downloaded(mod - 5)
    assert ours.rows("SELECT mod FROM col") == [(mod + 1,)]


def test_stamps_tell_of_scheduler_and_time_zone(ours):
    ours.merge.apply_changes(Changes(conf={"schedVer": 1}), 10, 0)
    assert (ours.merge.stamps()["v2"], ours.merge.stamps()["timezone"]) == (False, False)
    ours.merge.apply_changes(Changes(conf={"schedVer": 2, "creationOffset": 300}), 10, 0)
    assert (ours.merge.stamps()["v2"], ours.merge.stamps()["timezone"]) == (True, True)
    ours.merge.apply_changes(Changes(conf={"schedVer": 2, "creationOffset": None}), 10, 0)
    assert (ours.merge.stamps()["v2"], ours.merge.stamps()["timezone"]) == (True, False)


def test_stamps_of_an_empty_collection(open_copy, empty_file):
    stamps = open_copy(empty_file).stamps_before
    assert (stamps["mod"], stamps["usn"], stamps["cards"], stamps["notetypes"]) == (0, 0, 0, 6)


def test_rows_come_in_the_order_they_were_asked_for(ours):
    ids = all_ids(ours)
    asked = ChunkIds(ids.revlog[::-1], ids.cards[::-1], ids.notes[::-1])
    chunk = ours.unseen(0).read_chunk(asked)
    assert [row[0] for row in chunk.revlog] == asked.revlog
    assert [row[0] for row in chunk.cards] == asked.cards
    assert [row[0] for row in chunk.notes] == asked.notes


def test_rows_that_are_gone_are_left_out(ours):
    assert ours.unseen(0).read_chunk(ChunkIds([404], [404], [404])) == Chunk([], [], [])


def all_ids(ours):
    return ours.unseen(0).chunk_ids(ChunkPosition(), 10**6)


def test_the_newest_usn_comes_first(ours):
    ids = all_ids(ours).revlog
    usns = dict(ours.rows("SELECT id, usn FROM revlog"))
    assert ids == sorted(ids, key=lambda row: (usns[row], row), reverse=True)


@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_rows_are_given_once_however_many_at_a_time(ours, step):
    usns = dict(ours.rows("SELECT id, usn FROM revlog"))
    found, position = [], None
    while ids := ours.unseen(0).chunk_ids(ChunkPosition(revlog=position), step).revlog:
        assert len(ids) <= step
        found += ids
        position = (usns[ids[-1]], ids[-1])
    assert found == all_ids(ours).revlog


def test_rows_that_the_client_deleted_take_no_place_in_a_chunk(ours):
    ids = all_ids(ours)
    gone = Graves(cards=ids.cards[:3], notes=ids.notes[1:2])
    left = ours.unseen(0, deleted=gone).chunk_ids(ChunkPosition(), 2)
    assert (left.cards, left.notes) == (ids.cards[3:5], [ids.notes[0], ids.notes[2]])


def test_buried_cards_are_sent_as_the_first_sync_of_a_day_leaves_them(ours):
    ours.db.execute("UPDATE cards SET queue = -2, type = 0")
    now_s = int(time.time()) + 10 * 86_400
    rows = ours.unseen(0, now_s=now_s).read_chunk(all_ids(ours)).cards
    sent = ours.unseen(0, now_s=now_s).changes(with_config=True).conf
    assert {row[7] for row in ours.unseen(0).read_chunk(all_ids(ours)).cards} <= {0, -2}
    ours.merge.unbury(ours.merge.plan_unburying(now_s), now_s)
    assert rows == ours.unseen(0, now_s=now_s).read_chunk(all_ids(ours)).cards
    assert {row[7] for row in rows} == {0}
    assert sent == ours.unseen(0, now_s=now_s).changes(with_config=True).conf
    assert "lastUnburied" in sent


def test_pending_rows_are_found_by_index_even_after_analyze(ours):
    ours.db.execute("UPDATE cards SET usn = 3")
    ours.db.execute("UPDATE notes SET usn = 3")
    ours.db.execute("ANALYZE")
    statements = []
    ours.db.trace_v2(1, lambda event: statements.append(event["sql"]))
    ours.unseen(3).chunk_ids(ChunkPosition(cards=(7, 5), notes=(7, 5)), 10)
    ours.db.trace_v2(0, None)
    searches = []
    for sql in (sql for sql in statements if "LIMIT" in sql):
        details = [detail for *_, detail in ours.rows(f"EXPLAIN QUERY PLAN {sql}", 3, 7, 5, 10)]
        searches += [detail for detail in details if "SCAN" in detail or "SEARCH" in detail]
        assert not any("TEMP B-TREE" in detail for detail in details), details
    tables = [detail for detail in searches if "subquery" not in detail]
    assert len(tables) == 6
    assert all("SEARCH" in detail and "_usn" in detail for detail in tables), tables
    assert sum("usn=? AND rowid<?" in detail for detail in tables) == 3


def test_rows_are_read_and_compared_by_id(ours):
    statements = []
    ours.db.trace_v2(1, lambda event: statements.append(event["sql"]))
    ours.unseen(0).read_chunk(all_ids(ours))
    ours.merge.apply_chunk(Chunk(cards=[card(5)]), 0)
    ours.db.trace_v2(0, None)
    for sql in (sql for sql in statements if "json_each" in sql):
        details = [detail for *_, detail in ours.rows(f"EXPLAIN QUERY PLAN {sql}", "[]")]
        assert any("USING INTEGER PRIMARY KEY (rowid=?)" in detail for detail in details), details


def test_a_review_leaves_the_note_index_alone(ours):
    ids = [row for (row,) in ours.rows("SELECT id FROM cards")]
    rows = [
        (*row[:4], row[4] + 1, 10, *row[6:]) for row in ours.unseen(0).read_chunk(ChunkIds([], ids, [])).cards
    ]
    statements = []
    ours.db.trace_v2(1, lambda event: statements.append(event["sql"]))
    ours.merge.apply_chunk(Chunk(cards=rows), 100)
    ours.db.trace_v2(0, None)
    written = [sql for sql in statements if sql.lstrip().startswith(("UPDATE", "INSERT"))]
    assert written
    assert all("SET did" in sql for sql in written)
    assert ours.rows("SELECT count() FROM cards WHERE usn = 10") == [(len(rows),)]


def test_a_card_that_moves_to_another_note_is_moved(ours):
    card_id = ours.rows("SELECT min(id) FROM cards")[0][0]
    ours.merge.apply_chunk(
        Chunk(cards=[(card_id, 777, 1, 0, 5, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 888, 0, "")]), 100
    )
    assert ours.rows("SELECT nid, odid FROM cards WHERE id = ?", card_id) == [(777, 888)]
    assert ours.rows("SELECT id FROM cards INDEXED BY ix_cards_nid WHERE nid = 777") == [(card_id,)]
    assert ours.rows("SELECT id FROM cards INDEXED BY idx_cards_odid WHERE odid = 888 AND odid != 0") == [
        (card_id,)
    ]


def test_a_grave_of_unknown_kind_is_not_sent(ours):
    ours.db.execute("INSERT INTO graves VALUES (1, 7, 10)")
    with pytest.raises(InvalidChange):
        ours.unseen(0).graves()


def test_an_empty_grave_list_costs_no_statement(ours):
    statements = []
    ours.db.trace_v2(1, lambda event: statements.append(event["sql"]))
    ours.merge.apply_graves(Graves(), 10)
    ours.merge.apply_chunk(Chunk(), 10)
    ours.db.trace_v2(0, None)
    assert statements == []


def test_namesakes_without_end_are_refused(ours):
    (deck,) = ours.unseen(-2).changes(with_config=False).decks[:1]
    namesakes = [deck | {"id": 10**6 + number, "name": "Same"} for number in range(101)]
    ours.merge.apply_changes(Changes(decks=namesakes[:100]), 10, 0)
    with pytest.raises(InvalidChange):
        ours.merge.apply_changes(Changes(decks=namesakes[100:]), 10, 0)


def test_the_same_calls_give_the_same_tables(open_copy, base_file):
    def run():
        ours = open_copy(base_file)
        changes = ours.unseen(0).changes(with_config=True)
        renamed = [deck | {"id": deck["id"] + 5, "mod": 9999} for deck in changes.decks]
        ours.merge.apply_changes(
            Changes(changes.models, renamed, changes.configs, ["x"], changes.conf, 5), 10, 1234
        )
        ours.merge.unbury(ours.merge.plan_unburying(10**9), 10**9)
        ours.merge.finish(5)
        return [
            ours.rows(f"SELECT * FROM {t} ORDER BY 1, 2")
            for t in ("decks", "notetypes", "config", "tags", "col")
        ]

    assert run() == run()


def test_stamps_after_a_sync_are_those_of_a_real_count(ours):
    ours.merge.apply_chunk(Chunk(revlog=[review(5)], cards=[card(5)]), 0)
    ours.merge.finish(5)
    assert ours.merge.stamps() == read_stamps(ours.db)
