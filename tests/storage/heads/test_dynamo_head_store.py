"""What only the head store in DynamoDB does: requests per call, the item's size, pages, its format."""

from __future__ import annotations

import secrets
import uuid

import pytest
from msgspec import structs

from app.main import new_nonce
from app.sync.session import commit_id, session_id
from storage.database.limits import Limits
from storage.database.maintenance.compact import _folded, plan
from storage.errors import Conflict, Corrupt, HeadMoved, StorageError, Unavailable
from storage.heads.base import RECENT_KEPT, SessionUpdate
from storage.heads.dynamodb import DynamoHeadStore
from storage.types import EntryKind
from tests.support import aws
from tests.support.aws_wire import Wire
from tests.support.records import (
    chain_entry,
    collection_of,
    head_update_of,
    journal_entry,
    new_session,
    prepared_of,
    snapshot,
)


@pytest.fixture
def table(moto_table):
    return moto_table[1]


@pytest.fixture
def client(moto_endpoint):
    return aws.dynamodb_client(moto_endpoint)


@pytest.fixture
def wire(client):
    return Wire(client)


@pytest.fixture
def heads(client, table, wire):
    return DynamoHeadStore(client, table)


@pytest.fixture
def database():
    return collection_of(f"d-{uuid.uuid4().hex}")


def key(database):
    return {"pk": {"S": f"{database.user}#{database.kind}"}}


def size_of(item):
    """As DynamoDB counts it: names, numbers by their digits, and a little for each list."""

    def value_size(value):
        ((kind, held),) = value.items()
        if kind == "N":
            return (len(held) + 1) // 2 + 1
        if kind == "L":
            return 3 + sum(1 + value_size(one) for one in held)
        return len(held)

    return sum(len(name) + value_size(value) for name, value in item.items())


def test_every_call_is_one_request(heads, wire, database):
    def requests(call):
        wire.clear()
        call()
        return wire.requests

    write, read = ["UpdateItem"], ["GetItem"]
    assert requests(lambda: heads.find(database)) == read
    assert requests(lambda: heads.advance_head(database, head_update_of(0, 0))) == write
    assert requests(lambda: heads.open_session(database, new_session())) == write
    assert requests(lambda: heads.append(database, "session", journal_entry())) == write
    update = SessionUpdate(prepared=prepared_of(2))
    assert requests(lambda: heads.update_session(database, 2, "session", 2, update)) == write
    assert (
        requests(lambda: heads.advance_head(database, head_update_of(1, 2, session="session", seq=3)))
        == write
    )
    assert (
        requests(lambda: heads.advance_head(database, head_update_of(1, 2, session="session", seq=3)))
        == write
    )
    assert requests(lambda: heads.replace_chain(database, 2, 2, (snapshot(2),))) == write
    assert requests(lambda: heads.close_session(database, 2, "session")) == write
    with pytest.raises(Conflict):
        requests(lambda: heads.append(database, "session", journal_entry()))
    assert wire.requests == write
    assert requests(lambda: heads.delete(database)) == ["DeleteItem"]


def test_reads_are_consistent(heads, wire, database):
    heads.find(database)
    assert b'"ConsistentRead": true' in wire.sent[-1].body


LARGEST = 2**32 - 1000
"""Versions, tokens and bytes are as good as never larger; each more digit would cost a byte per entry."""
STAMPS = dict.fromkeys(
    (
        *("mod", "scm", "usn", "cards", "notes", "revlog", "graves", "notetypes", "decks", "deck_config"),
        "newest",
    ),
    1_700_000_000_000,
) | dict.fromkeys(["unsynced", "v2", "timezone"], True)  # fmt: skip


def longest_ids():
    """Commit ids as syncs and all other commits make them, the longer kind; each another one."""
    session = session_id("u" * 128, "k" * 100)
    kinds = [lambda number: commit_id(session, LARGEST + number), lambda _number: new_nonce()]
    return max(kinds, key=lambda make: len(make(0)))


def test_an_item_at_rest_is_below_four_kilobytes(heads, client, table):
    """The longest chain, all that was merged in it merged by compaction, and an id as long as ids may be."""
    database, limits, make_id = collection_of("u" * 128), Limits(), longest_ids()
    for base in range(RECENT_KEPT):
        heads.advance_head(database, head_update_of(base, base, entry=snapshot(base + 1)))
    client.update_item(
        TableName=table,
        Key=key(database),
        UpdateExpression="SET version = :large, #token = :large, chain_revision = :large",
        ExpressionAttributeNames={"#token": "token"},
        ExpressionAttributeValues={":large": {"N": str(LARGEST)}},
    )
    head = commit_longest(heads, database, EntryKind.SNAPSHOT, make_id(0))
    while len(head.chain) <= limits.chain_deltas:
        start = plan(head.chain, structs.replace(limits, snapshot_percent=10**9))
        if start is not None:
            chain = (*head.chain[:start], _folded(head, start, new_nonce()))
            heads.replace_chain(database, head.token, head.chain_revision, chain)
        head = commit_longest(heads, database, EntryKind.DELTA, make_id(head.version))
    # a snapshot that compaction made keeps ids of what it folded, too
    chain = (_folded(head, 0, new_nonce()), *head.chain[1:])
    chain = (structs.replace(chain[0], first=head.chain[0].last, last=head.chain[0].last), *chain[1:])
    head = heads.replace_chain(database, head.token, head.chain_revision, chain)
    item = client.get_item(TableName=table, Key=key(database))["Item"]
    assert len(item["chain"]["L"]) == limits.chain_deltas + 1
    assert sum(entry.first < entry.last for entry in head.chain) == 8
    assert min(len(entry.commit_ids[0]) for entry in head.chain) == len(make_id(0))
    assert 3500 < size_of(item) < 4096


def commit_longest(heads, database, kind, commit_id):
    head = heads.find(database)
    version = head.version + 1
    entry = structs.replace(
        snapshot(version) if kind is EntryKind.SNAPSHOT else chain_entry(version),
        nonce=new_nonce(), size_bytes=LARGEST, checksum=2**64 - secrets.randbits(32) - 1, token=head.token,
        sha256=secrets.token_bytes(32), page_count=LARGEST, commit_ids=(commit_id,),
    )  # fmt: skip
    update = head_update_of(head.version, head.token, commit_id=commit_id, entry=entry)
    return heads.advance_head(database, structs.replace(update, stamps=STAMPS, answer=b"1700000000000"))


def test_a_finished_session_leaves_nothing_in_the_item(heads, client, table, database):
    heads.advance_head(database, head_update_of(0, 0))
    before = set(client.get_item(TableName=table, Key=key(database))["Item"])
    for end in (
        lambda token: heads.close_session(database, token, "session"),
        lambda token: heads.advance_head(database, head_update_of(1, token, session="session", seq=3)),
    ):
        token = heads.open_session(database, new_session()).token
        heads.append(database, "session", journal_entry())
        heads.update_session(database, token, "session", 2, SessionUpdate(prepared=prepared_of(2)))
        end(token)
        after = set(client.get_item(TableName=table, Key=key(database))["Item"])
        assert {name for name in after - before if not name.startswith("recent")} == set()


def test_a_listing_of_more_than_one_page_is_whole_and_lazy(client, wire, moto_endpoint):
    heads = DynamoHeadStore(client, aws.new_table(moto_endpoint))
    client.meta.events.register(
        "before-parameter-build.dynamodb.Query", lambda params, **_: params.update(Limit=3)
    )
    everyone = [collection_of(f"user{number}") for number in range(8)]
    for database in everyone:
        heads.open_session(database, new_session())
    wire.clear()
    listed = heads.list()
    assert next(listed) == everyone[0]
    assert wire.requests == ["Query", "Query"]
    assert list(listed) == everyone[1:]


def test_what_has_changed_is_found_without_reading_what_has_not(client, wire, moto_endpoint):
    heads = DynamoHeadStore(client, aws.new_table(moto_endpoint))
    for number in range(8):
        database = collection_of(f"user{number}")
        heads.settle(database, heads.advance_head(database, head_update_of(0, 0)).chain_revision)
    changed = [collection_of("user2"), collection_of("user5")]
    for database in changed:
        heads.advance_head(database, head_update_of(1, 1))
    wire.clear()
    assert list(heads.list_changed(0)) == changed
    assert wire.requests == ["Query"]
    assert len(list(heads.list())) == 8


def test_a_sync_that_commits_nothing_is_no_change(heads, client, table, database):
    heads.settle(database, heads.advance_head(database, head_update_of(0, 0)).chain_revision)
    token = heads.open_session(database, new_session()).token
    heads.append(database, "session", journal_entry())
    heads.close_session(database, token, "session")
    assert client.get_item(TableName=table, Key=key(database))["Item"]["listing"] == {"S": "head"}


def test_an_item_of_a_newer_format_is_refused(heads, client, table, database):
    heads.advance_head(database, head_update_of(0, 0))
    client.update_item(
        TableName=table,
        Key=key(database),
        UpdateExpression="SET #f = :two",
        ExpressionAttributeNames={"#f": "format"},
        ExpressionAttributeValues={":two": {"N": "2"}},
    )
    with pytest.raises(StorageError, match="format version 2"):
        heads.find(database)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chain", {"L": [{"B": b"\xc1"}]}),
        ("stamps", {"B": b"\x93"}),
        ("version", {"S": "one"}),
        ("recent1", {"B": b""}),
    ],
)
def test_an_item_that_cannot_be_read_is_named(heads, client, table, database, name, value):
    heads.advance_head(database, head_update_of(0, 0))
    client.update_item(
        TableName=table,
        Key=key(database),
        UpdateExpression="SET #n = :v",
        ExpressionAttributeNames={"#n": name},
        ExpressionAttributeValues={":v": value},
    )
    with pytest.raises(Corrupt, match=database.user):
        heads.find(database)


def test_an_engine_that_does_not_send_the_item_along_is_read_again(heads, client, wire, database):
    """dynalite knows no `ReturnValuesOnConditionCheckFailure`."""
    heads.advance_head(database, head_update_of(0, 0))
    client.meta.events.register(
        "after-call.dynamodb.UpdateItem", lambda parsed, **_: parsed.pop("Item", None)
    )
    wire.clear()
    with pytest.raises(HeadMoved):
        heads.advance_head(database, head_update_of(0, 0, commit_id="other"))
    assert wire.requests == ["UpdateItem", "GetItem"]


def test_a_table_that_is_not_there_is_an_outage(client, database):
    with pytest.raises(Unavailable, match="ResourceNotFound"):
        DynamoHeadStore(client, "no-such-table").find(database)
