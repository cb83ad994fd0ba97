"""What every head store promises: see `storage/heads/base.py` and `storage/heads/transitions.py`."""

from __future__ import annotations

import uuid

import pytest
from msgspec import structs

from storage.errors import HeadMoved, SessionAhead, SessionLost
from storage.heads.base import RECENT_KEPT, SessionUpdate
from storage.types import EMPTY_HEAD, ChainEntry, EntryKind, JournalEntry, Session
from tests.support.records import (
    chain_entry,
    collection_of,
    head_update_of,
    journal_entry,
    media_of,
    new_session,
    prepared_of,
    snapshot,
)

FAR_FUTURE_MS = 4_000_000_000_000


@pytest.fixture
def user():
    """A user of the test's own, since some stores are shared between tests."""
    return f"u-{uuid.uuid4().hex}"


@pytest.fixture
def database(user):
    return collection_of(user)


def committed(heads, database, versions):
    """A head at a version, made by commits without a session."""
    head = heads.find(database) or EMPTY_HEAD
    for base in range(head.version, versions):
        head = heads.advance_head(database, head_update_of(base, head.token))
    return head


# find


def test_a_database_never_written_has_no_record(heads, database):
    assert heads.find(database) is None


def test_several_are_found_as_one_by_one_and_in_the_order_asked(heads, user):
    collection, media, nobody = collection_of(user), media_of(user), collection_of(f"{user}-2")
    committed(heads, collection, 2)
    committed(heads, media, 1)
    asked = [media, nobody, collection]
    assert heads.find_many(asked) == [heads.find(media), None, heads.find(collection)]


def test_what_a_write_returned_is_what_is_found(heads, database):
    assert heads.open_session(database, new_session()) == heads.find(database)
    assert heads.advance_head(database, head_update_of(0, 1, session="session", seq=1)) == heads.find(
        database
    )


def test_databases_of_one_user_are_apart(heads, user):
    heads.open_session(collection_of(user), new_session())
    assert heads.find(media_of(user)) is None


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "a b", "a\n", "a\0", "ä", "a#b", "%2e", "x" * 129]
)
def test_a_user_id_that_leads_astray_is_refused_by_every_method(heads, name):
    database = collection_of(name)
    calls = [
        lambda: heads.find(database),
        lambda: heads.open_session(database, new_session()),
        lambda: heads.append(database, "session", journal_entry()),
        lambda: heads.update_session(database, 1, "session", 1, SessionUpdate()),
        lambda: heads.close_session(database, 1, "session"),
        lambda: heads.advance_head(database, head_update_of(0, 0)),
        lambda: heads.replace_chain(database, 0, 0, ()),
        lambda: heads.replace_head(database, None, EMPTY_HEAD),
        lambda: heads.delete(database),
        lambda: list(heads.list(database.user)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="no user id"):
            call()


@pytest.mark.parametrize("name", ["a", "...", "..a", "-", "_", "A.b-C_d", "x" * 128, "0123"])
def test_every_user_id_within_the_limits_works(heads, name):
    database = media_of(name)
    heads.open_session(database, new_session())
    assert heads.find(database).session.id == "session"
    assert list(heads.list(database.user)) == [database]
    heads.delete(database)


def test_every_field_survives_the_store(heads, database):
    commit_id = "c" * 64
    stamps = {"mod": 2**62, "usn": -1, "empty": True, "v2": False, "cards": 0}
    entry = ChainEntry(
        EntryKind.SNAPSHOT, 1, 1, 2**40, "nonce-" * 4, 2**40, bytes(range(32)),
        65536, 2**32 - 2, 2**64 - 1, (commit_id, "ünïcode"), 2**41,
    )  # fmt: skip
    update = head_update_of(0, 0, commit_id=commit_id, entry=entry)
    head = heads.advance_head(database, structs.replace(update, stamps=stamps, answer=b"\0\xff{}"))
    session = new_session("s" * 64, revision=2**31)
    entries = [
        journal_entry(body=bytes(range(256)) * 8),
        journal_entry(body=None, key="v1/user/collection/j/1/2-abc.req"),
        JournalEntry("методы", b"", 0, b"", None, size_bytes=2**40),
    ]
    token = heads.open_session(database, session).token
    for entry in entries:
        heads.append(database, session.id, entry)
    prepared = prepared_of(2, commit_id=commit_id)
    heads.update_session(database, token, session.id, 4, SessionUpdate(state=b"\0new\xff", prepared=prepared))
    found = heads.find(database)
    assert found.stamps == stamps
    assert [type(value) for value in found.stamps.values()] == [int, int, bool, bool, int]
    assert found.chain == head.chain == (update.entry,)
    assert found.recent[0].answer == b"\0\xff{}"
    assert found.session == Session(
        session.id, token, 1, 5, 2**31, session.started_ms, (*session.journal, *entries),
        b"\0new\xff", prepared,
    )  # fmt: skip


# open_session


def test_a_first_session_creates_the_record(heads, database):
    session = new_session("one")
    head = heads.open_session(database, session)
    assert (head.version, head.token, head.chain, head.recent) == (0, 1, (), ())
    assert head.session == Session(
        "one", 1, 0, 1, session.merge_revision, session.started_ms, session.journal, session.state
    )


def test_a_session_starts_from_the_head(heads, database):
    before = committed(heads, database, 3)
    head = heads.open_session(database, new_session("one"))
    assert head.session.base_version == 3
    assert head.session.token == head.token == before.token + 1
    assert (head.chain, head.stamps, head.recent) == (before.chain, before.stamps, before.recent)
    assert head.chain_revision == before.chain_revision


def test_a_second_session_takes_over(heads, database):
    first = heads.open_session(database, new_session("one"))
    heads.append(database, "one", journal_entry())
    second = heads.open_session(database, new_session("two"))
    assert second.token == first.token + 1
    assert (second.session.id, second.session.seq) == ("two", 1)
    with pytest.raises(SessionLost):
        heads.append(database, "one", journal_entry())
    with pytest.raises(SessionLost):
        heads.advance_head(database, head_update_of(0, first.token, session="one", seq=2))


def test_a_session_of_the_same_id_takes_over_too(heads, database):
    first = heads.open_session(database, new_session("one"))
    second = heads.open_session(database, new_session("one"))
    assert second.token == first.token + 1
    with pytest.raises(SessionLost) as caught:
        heads.update_session(database, first.token, "one", 1, SessionUpdate(state=b"x"))
    assert not isinstance(caught.value, SessionAhead)


def test_a_start_that_comes_again_late_does_not_empty_the_journal(heads, database):
    """As a proxy may deliver it that tries a request on a second server."""
    heads.open_session(database, new_session("one"))
    before = heads.append(database, "one", journal_entry())
    with pytest.raises(SessionLost):
        heads.open_session(database, new_session("one"))
    assert heads.find(database) == before
    assert heads.open_session(database, new_session("two")).session.id == "two"


# append


def test_appended_entries_are_kept_in_order(heads, database):
    heads.open_session(database, new_session())
    entries = [journal_entry(body=b"%d" % number) for number in range(1, 6)]
    for entry in entries:
        heads.append(database, "session", entry)
    session = heads.find(database).session
    assert session.journal[1:] == tuple(entries)
    assert session.seq == len(session.journal) == 6


def test_an_append_returns_the_head_as_written(heads, database):
    before = heads.open_session(database, new_session())
    head = heads.append(database, "session", journal_entry())
    assert head == heads.find(database)
    assert head.session.seq == before.session.seq + 1


def test_an_entry_of_another_session_says_that_it_is_lost(heads, database):
    before = heads.open_session(database, new_session())
    with pytest.raises(SessionLost) as caught:
        heads.append(database, "other", journal_entry())
    assert not isinstance(caught.value, SessionAhead)
    assert heads.find(database) == before


def test_an_entry_without_any_session_says_that_it_is_lost(heads, database):
    with pytest.raises(SessionLost):
        heads.append(database, "session", journal_entry())
    assert heads.find(database) is None


def test_a_session_may_begin_with_an_empty_journal(heads, database):
    """Which is the usual sync."""
    session = structs.replace(new_session(), journal=())
    assert heads.open_session(database, session).session.seq == 0
    assert heads.append(database, "session", journal_entry()).session.journal == (journal_entry(),)


def test_a_journal_may_hold_sixteen_kibibytes_inline(heads, database):
    heads.open_session(database, new_session())
    entries = [journal_entry(body=bytes([number]) * 2048) for number in range(8)]
    for entry in entries:
        heads.append(database, "session", entry)
    assert heads.find(database).session.journal[1:] == tuple(entries)


# update_session


def test_an_update_replaces_what_it_names_and_keeps_the_rest(heads, database):
    before = heads.open_session(database, new_session())
    head = heads.update_session(database, before.token, "session", 1, SessionUpdate(state=b"new"))
    assert head == heads.find(database)
    assert head.session == structs.replace(before.session, seq=2, state=b"new")
    folded = (journal_entry("folded", body=None, key="k"),)
    head = heads.update_session(database, before.token, "session", 2, SessionUpdate(journal=folded))
    assert head.session == structs.replace(before.session, seq=3, state=b"new", journal=folded)


def test_every_other_write_to_a_session_drops_its_prepared_commit(heads, database):
    """It would lack what came since."""
    token = heads.open_session(database, new_session()).token
    for write in (
        lambda seq: heads.append(database, "session", journal_entry()),
        lambda seq: heads.update_session(database, token, "session", seq, SessionUpdate(state=b"x")),
    ):
        seq = heads.find(database).session.seq
        head = heads.update_session(database, token, "session", seq, SessionUpdate(prepared=prepared_of(1)))
        assert head.session.prepared == prepared_of(1)
        assert write(seq + 1).session.prepared is None


def test_a_new_session_has_no_prepared_commit(heads, database):
    token = heads.open_session(database, new_session()).token
    heads.update_session(database, token, "session", 1, SessionUpdate(prepared=prepared_of(1)))
    assert heads.open_session(database, new_session("next")).session.prepared is None


@pytest.mark.parametrize("seq", [0, 1, 3])
def test_an_update_out_of_turn_says_that_the_session_is_ahead(heads, database, seq):
    token = heads.open_session(database, new_session()).token
    heads.append(database, "session", journal_entry())
    with pytest.raises(SessionAhead):
        heads.update_session(database, token, "session", seq, SessionUpdate(state=b"x"))
    assert heads.find(database).session.seq == 2


@pytest.mark.parametrize(("token", "session"), [(0, "session"), (2, "session"), (1, "other"), (7, "other")])
def test_an_update_of_another_session_says_that_it_is_lost(heads, database, token, session):
    heads.open_session(database, new_session())
    with pytest.raises(SessionLost) as caught:
        heads.update_session(database, token, session, 5, SessionUpdate(state=b"x"))
    assert not isinstance(caught.value, SessionAhead)


# close_session


def test_a_closed_session_is_over_and_the_token_stays(heads, database):
    token = heads.open_session(database, new_session()).token
    assert heads.close_session(database, token, "session") is True
    head = heads.find(database)
    assert (head.session, head.token) == (None, token)
    with pytest.raises(SessionLost):
        heads.append(database, "session", journal_entry())


def test_closing_twice_says_so(heads, database):
    token = heads.open_session(database, new_session()).token
    heads.close_session(database, token, "session")
    assert heads.close_session(database, token, "session") is False


@pytest.mark.parametrize(("token", "session"), [(1, "other"), (2, "session"), (0, "session")])
def test_a_late_close_does_not_touch_another_session(heads, database, token, session):
    before = heads.open_session(database, new_session())
    assert heads.close_session(database, token, session) is False
    assert heads.find(database) == before


def test_closing_where_there_is_no_record_is_fine(heads, database):
    assert heads.close_session(database, 0, "session") is False
    assert heads.find(database) is None


# flip


def test_a_head_update_of_a_session_makes_the_next_version(heads, database):
    token = heads.open_session(database, new_session()).token
    heads.append(database, "session", journal_entry())
    update = head_update_of(0, token, session="session", seq=2)
    head = heads.advance_head(database, update)
    assert (head.version, head.token, head.chain_revision) == (1, token, 1)
    assert (head.page_size, head.page_count, head.checksum) == (
        update.entry.page_size,
        update.entry.page_count,
        update.entry.checksum,
    )
    assert head.stamps == update.stamps
    assert head.chain == (update.entry,)
    assert [(r.commit_id, r.answer, r.time_ms) for r in head.recent] == [
        (update.commit_id, update.answer, update.time_ms)
    ]
    assert head.session is None


def test_a_head_update_without_a_session_raises_the_token_and_ends_any_session(heads, database):
    token = heads.open_session(database, new_session()).token
    head = heads.advance_head(database, head_update_of(0, token))
    assert (head.version, head.token, head.session) == (1, token + 1, None)
    with pytest.raises(SessionLost):
        heads.append(database, "session", journal_entry())


def test_a_head_update_where_there_is_no_record_counts_from_the_empty_head(heads, database):
    head = heads.advance_head(database, head_update_of(0, 0))
    assert (head.version, head.token) == (1, 1)


def test_a_delta_is_appended_and_a_snapshot_replaces_the_chain(heads, database):
    head = committed(heads, database, 3)
    assert [entry.last for entry in head.chain] == [1, 2, 3]
    head = heads.advance_head(database, head_update_of(3, head.token, entry=snapshot(4)))
    assert head.chain == (snapshot(4),)


def test_a_repeated_head_update_returns_the_head_unchanged(heads, database):
    token = heads.open_session(database, new_session()).token
    update = head_update_of(0, token, session="session", seq=1)
    head = heads.advance_head(database, update)
    assert heads.advance_head(database, update) == head == heads.find(database)


def test_a_head_update_repeated_after_others_is_still_known(heads, database):
    token = heads.open_session(database, new_session()).token
    update = head_update_of(0, token, session="session", seq=1)
    heads.advance_head(database, update)
    heads.open_session(database, new_session("two"))
    head = committed(heads, database, RECENT_KEPT + 3)
    assert heads.advance_head(database, update) == head == heads.find(database)


def test_a_head_update_repeated_when_neither_answers_nor_chain_know_it_is_refused(heads, database):
    update = head_update_of(0, 0)
    heads.advance_head(database, update)
    head = committed(heads, database, RECENT_KEPT + 1)
    head = heads.advance_head(
        database, head_update_of(head.version, head.token, entry=snapshot(head.version + 1))
    )
    with pytest.raises(HeadMoved):
        heads.advance_head(database, update)


def test_a_session_id_used_again_is_another_commit(heads, database):
    """A client that chooses the same key for two syncs must not be told that the second landed."""
    token = heads.open_session(database, new_session()).token
    heads.advance_head(database, head_update_of(0, token, session="session", seq=1))
    token = heads.open_session(database, new_session()).token
    head = heads.advance_head(database, head_update_of(1, token, session="session", seq=1))
    assert head.version == 2
    token = heads.open_session(database, new_session()).token
    head = committed(heads, database, 3)
    with pytest.raises(SessionLost):
        heads.advance_head(database, head_update_of(2, token, session="session", seq=1))


@pytest.mark.parametrize(("base", "token"), [(0, 2), (2, 2), (1, 1), (1, 3)])
def test_a_head_update_of_another_base_or_token_says_that_the_head_moved(heads, database, base, token):
    heads.advance_head(database, head_update_of(0, 0))
    before = heads.open_session(database, new_session())
    assert (before.version, before.token) == (1, 2)
    with pytest.raises(HeadMoved):
        heads.advance_head(database, head_update_of(base, token, commit_id="other"))
    assert heads.find(database) == before


@pytest.mark.parametrize(("token", "session"), [(1, "session"), (3, "session"), (2, "other")])
def test_a_head_update_of_a_lost_session_says_so_whatever_else_differs(heads, database, token, session):
    heads.advance_head(database, head_update_of(0, 0))
    before = heads.open_session(database, new_session())
    for base in (0, 1, 2):
        with pytest.raises(SessionLost) as caught:
            heads.advance_head(
                database, head_update_of(base, token, session=session, seq=9, commit_id="other")
            )
        assert not isinstance(caught.value, SessionAhead)
    assert heads.find(database) == before


def test_a_head_update_at_another_base_in_its_session_says_that_the_head_moved(heads, database):
    token = heads.open_session(database, new_session()).token
    with pytest.raises(HeadMoved):
        heads.advance_head(database, head_update_of(1, token, session="session", seq=9))


@pytest.mark.parametrize("seq", [0, 1, 3])
def test_a_head_update_at_another_seq_says_that_the_session_is_ahead(heads, database, seq):
    token = heads.open_session(database, new_session()).token
    heads.append(database, "session", journal_entry())
    before = heads.find(database)
    with pytest.raises(SessionAhead):
        heads.advance_head(database, head_update_of(0, token, session="session", seq=seq))
    assert heads.find(database) == before


def test_the_answers_of_the_last_commits_are_kept(heads, database):
    head = committed(heads, database, RECENT_KEPT + 5)
    assert [recent.commit_id for recent in head.recent] == [
        f"commit-{version}" for version in range(6, RECENT_KEPT + 6)
    ]


def test_a_head_update_that_no_reader_could_follow_is_refused(heads, database):
    with pytest.raises(ValueError, match="begins with a snapshot"):
        heads.advance_head(
            database, head_update_of(0, 0, entry=structs.replace(snapshot(1), kind=EntryKind.DELTA))
        )
    with pytest.raises(ValueError, match="of one version"):
        heads.advance_head(database, head_update_of(0, 0, entry=structs.replace(snapshot(1), first=0)))
    with pytest.raises(ValueError, match="version"):
        heads.advance_head(database, head_update_of(0, 0, entry=snapshot(2)))
    head = committed(heads, database, 1)
    with pytest.raises(ValueError, match="does not follow"):
        heads.advance_head(database, head_update_of(1, head.token, entry=chain_entry(2, first=3)))
    assert heads.find(database) == head


# replace_chain


def test_another_chain_keeps_version_token_and_session(heads, database):
    committed(heads, database, 4)
    before = heads.open_session(database, new_session())
    heads.append(database, "session", journal_entry())
    chain = (snapshot(3), chain_entry(4))
    after = heads.replace_chain(database, before.token, before.chain_revision, chain)
    assert after.chain == chain
    assert after.chain_revision == before.chain_revision + 1
    assert (after.version, after.token, after.recent) == (before.version, before.token, before.recent)
    assert after.session.seq == 2
    assert heads.find(database) == after
    assert heads.advance_head(database, head_update_of(4, after.token, session="session", seq=2)).version == 5


def test_merged_deltas_may_overlap_their_base(heads, database):
    before = committed(heads, database, 4)
    chain = (snapshot(2), chain_entry(4, first=2))
    assert heads.replace_chain(database, before.token, before.chain_revision, chain).chain == chain


@pytest.mark.parametrize(("token_off", "revision_off"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_a_chain_for_another_head_is_refused(heads, database, token_off, revision_off):
    head = committed(heads, database, 2)
    with pytest.raises(HeadMoved):
        heads.replace_chain(
            database, head.token + token_off, head.chain_revision + revision_off, (snapshot(2),)
        )
    assert heads.find(database) == head


def test_a_chain_where_there_is_no_record_is_refused(heads, database):
    with pytest.raises(HeadMoved):
        heads.replace_chain(database, 0, 0, ())
    assert heads.find(database) is None


@pytest.mark.parametrize(
    "chain",
    [
        (),
        (snapshot(3),),
        (snapshot(1),),
        (chain_entry(2),),
        (chain_entry(1), snapshot(2)),
        (snapshot(1), chain_entry(2, first=3)),
    ],
)
def test_a_chain_that_does_not_lead_to_the_version_is_refused(heads, database, chain):
    head = committed(heads, database, 2)
    with pytest.raises(ValueError, match=r"chain|follow"):
        heads.replace_chain(database, head.token, head.chain_revision, chain)
    assert heads.find(database) == head


# list and delete


def test_the_databases_of_a_user_are_listed(heads, user):
    assert list(heads.list(collection_of(user).user)) == []
    heads.open_session(media_of(user), new_session())
    heads.open_session(collection_of(user), new_session())
    heads.open_session(collection_of(user + "x"), new_session())
    assert list(heads.list(collection_of(user).user)) == [collection_of(user), media_of(user)]


def test_all_databases_are_listed_in_order(heads, user):
    mine = [collection_of(f"{user}{end}") for end in ["b", "a.x", "a-x", "a", "a_x", "B", "a0"]]
    mine.append(media_of(f"{user}a"))
    for database in mine:
        heads.open_session(database, new_session())
    listed = list(heads.list())
    assert listed == sorted(listed)
    assert [database for database in listed if database.user.startswith(user)] == sorted(mine)


def test_a_deleted_database_is_forgotten(heads, database, user):
    committed(heads, database, 2)
    heads.open_session(media_of(user), new_session())
    heads.delete(database)
    assert heads.find(database) is None
    assert list(heads.list(database.user)) == [media_of(user)]
    with pytest.raises(SessionLost):
        heads.append(database, "session", journal_entry())
    with pytest.raises(HeadMoved):
        heads.advance_head(database, head_update_of(2, 2))


def test_deleting_what_is_absent_is_fine(heads, database):
    heads.delete(database)
    assert heads.find(database) is None


def test_another_worker_sees_a_write_at_once(head_backend, database):
    here, there = head_backend.open(), head_backend.open()
    for number in range(5):
        head = here.open_session(database, new_session(f"here-{number}"))
        assert there.find(database) == head
        head = there.advance_head(database, head_update_of(number, head.token))
        assert here.find(database) == head


# list_changed and settle


def test_what_was_committed_is_listed_as_changed(heads, user):
    mine = sorted([collection_of(user), media_of(user), media_of(f"{user}-2")])
    for database in mine:
        committed(heads, database, 1)
    assert [found for found in heads.list_changed(0) if found.user.startswith(user)] == mine


def test_what_is_settled_is_not_listed_as_changed_until_the_next_commit(heads, database):
    head = committed(heads, database, 1)
    heads.settle(database, head.chain_revision)
    assert database not in set(heads.list_changed(FAR_FUTURE_MS))
    committed(heads, database, 2)
    assert database in set(heads.list_changed(0))


def test_a_commit_that_came_after_what_was_seen_is_still_listed(heads, database):
    seen = committed(heads, database, 1)
    committed(heads, database, 2)
    heads.settle(database, seen.chain_revision)
    assert database in set(heads.list_changed(0))


def test_settling_changes_nothing_else(heads, database):
    head = committed(heads, database, 2)
    heads.settle(database, head.chain_revision)
    assert heads.find(database) == head
    assert heads.advance_head(database, head_update_of(2, head.token)).version == 3


def test_settling_what_is_absent_makes_no_record(heads, database):
    heads.settle(database, 0)
    assert heads.find(database) is None


# replace_head


def rebuilt(heads, database, versions):
    """A record as it is made anew from objects: another token, no session."""
    other = media_of(f"{database.user}-2")
    head = committed(heads, other, versions)
    return structs.replace(head, token=head.token + 2**32, stamps={"usn": 3, "unsynced": True})


@pytest.mark.parametrize("versions", [1, 3, RECENT_KEPT + 3])
def test_a_lost_record_is_made_anew(heads, database, versions):
    head = rebuilt(heads, database, versions)
    heads.replace_head(database, None, head)
    assert heads.find(database) == head
    assert list(heads.list(database.user)) == [database]
    assert heads.advance_head(database, head_update_of(versions, head.token)).version == versions + 1


def test_a_record_made_anew_takes_the_place_of_the_one_that_was_read_with_its_session(heads, database):
    committed(heads, database, 2)
    found = heads.open_session(database, new_session())
    head = rebuilt(heads, database, 5)
    heads.replace_head(database, found, head)
    heads.replace_head(database, found, head)  # as if the first answer was lost
    assert heads.find(database) == head
    with pytest.raises(SessionLost):
        heads.append(database, "session", journal_entry())


def test_a_record_that_moved_is_not_replaced(heads, database):
    found = committed(heads, database, 1)
    head = rebuilt(heads, database, 3)
    moved = heads.open_session(database, new_session())
    for seen in (found, None):
        with pytest.raises(HeadMoved):
            heads.replace_head(database, seen, head)
    assert heads.find(database) == moved
    heads.delete(database)
    with pytest.raises(HeadMoved):
        heads.replace_head(database, moved, head)
    assert heads.find(database) is None


def test_a_record_whose_chain_does_not_lead_to_its_version_is_refused(heads, database):
    head = rebuilt(heads, database, 2)
    for wrong in (structs.replace(head, version=3), structs.replace(head, chain=())):
        with pytest.raises(ValueError, match="chain"):
            heads.replace_head(database, None, wrong)
    assert heads.find(database) is None
