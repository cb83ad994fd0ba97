"""The head store in a DynamoDB table: one item per database, changed by conditional writes of single items.

Each write is one `UpdateItem` with the port's condition as its own. If that fails, DynamoDB returns the
item with the error, and the function of `storage.heads.transitions` is applied to it, which raises the
right error. See `storage/README.md`, "Heads in DynamoDB".
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from botocore.config import Config
from botocore.exceptions import ClientError

from storage.aws import code_of, gave_up, mapped, was_repeated
from storage.errors import Corrupt, StorageError, Unavailable
from storage.heads import transitions
from storage.heads.base import RECENT_KEPT, HeadUpdate, NewSession, SessionUpdate
from storage.heads.keys import check_user, databases_of
from storage.types import (
    ChainEntry,
    DatabaseId,
    DatabaseKind,
    EntryKind,
    Head,
    JournalEntry,
    Prepared,
    Recent,
    Session,
    UserId,
)

LISTING_INDEX: Final = "listing"
_SETTLED: Final = {"S": "head"}
_CHANGED: Final = {"S": "head-changed"}
"""The value of `listing` for a record with commits since maintenance was last done with it."""
FORMAT_VERSION: Final = 1
_FORMAT: Final = {"N": str(FORMAT_VERSION)}
_GUARD_FAILED: Final = "ConditionalCheckFailedException"
_ATTEMPTS: Final = 5
"""Attempts of a write whose condition failed although the record read afterwards fulfils it."""
_SESSION: Final = (
    "session", "seq", "base_version", "merge_revision", "started_ms", "journal", "state", "prepared",
)  # fmt: skip

_IF_ABSENT: Final = {
    "ConditionExpression": "attribute_not_exists(#version)",
    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
}

_encode: Final = msgspec.msgpack.Encoder().encode
_stamps: Final = msgspec.msgpack.Decoder(dict[str, int | bool])
_links: Final = msgspec.msgpack.Decoder(ChainEntry)
_recents: Final = msgspec.msgpack.Decoder(Recent)
_entries: Final = msgspec.msgpack.Decoder(JournalEntry)
_prepared: Final = msgspec.msgpack.Decoder(Prepared)


def client_config(connections: int) -> Config:
    """The settings of the client that `DynamoHeadStore` expects."""
    return Config(
        max_pool_connections=connections,
        connect_timeout=2,
        read_timeout=4,
        retries={"mode": "standard", "total_max_attempts": 4},
        tcp_keepalive=True,
    )


def table_definition(table: str) -> dict[str, Any]:
    """The arguments of `create_table` for a table of heads.

    The index has keys only, so it is written when `listing` changes, not by every write to a record.
    """
    return {
        "TableName": table,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "listing", "AttributeType": "S"},
        ],
        "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
        "GlobalSecondaryIndexes": [
            {
                "IndexName": LISTING_INDEX,
                "KeySchema": [
                    {"AttributeName": "listing", "KeyType": "HASH"},
                    {"AttributeName": "pk", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
        ],
    }


class DynamoHeadStore:
    """The head store of a table that `table_definition` describes."""

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table

    def find(self, database: DatabaseId) -> Head | None:
        with mapped(str(database)):
            answer = _sound(self._client.get_item(**self._at(database), ConsistentRead=True))
        item = answer.get("Item")
        return _head(database, item) if item else None

    def find_many(self, databases: Sequence[DatabaseId]) -> list[Head | None]:
        keys = [self._at(database)["Key"] for database in databases]
        found: dict[str, dict[str, Any]] = {}
        for _ in range(_ATTEMPTS):
            request = {self._table: {"Keys": keys, "ConsistentRead": True}}
            with mapped(f"heads of {self._table}"):
                answer = _sound(self._client.batch_get_item(RequestItems=request))
            for item in answer["Responses"].get(self._table, ()):
                found[item["pk"]["S"]] = item
            # DynamoDB may leave out keys, for example if it is throttled.
            keys = answer.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", [])
            if not keys:
                break
        else:
            raise Unavailable(f"heads of {self._table}: throttled")
        items = [found.get(self._at(database)["Key"]["pk"]["S"]) for database in databases]
        return [
            _head(database, item) if item else None for database, item in zip(databases, items, strict=True)
        ]

    def open_session(self, database: DatabaseId, session: NewSession) -> Head:
        sets: dict[str, str | dict[str, Any]] = {
            "format": _FORMAT,
            "listing": "if_not_exists(#listing, :settled)",
            "token": "if_not_exists(#token, :zero) + :one",
            "base_version": "if_not_exists(#version, :zero)",
            "session": _text(session.id),
            "seq": _number(len(session.journal)),
            "merge_revision": _number(session.merge_revision),
            "started_ms": _number(session.started_ms),
            "journal": {"L": [_packed(entry) for entry in session.journal]},
            "stamps": "if_not_exists(#stamps, :none)",
            "chain": "if_not_exists(#chain, :empty)",
        }
        for name in ("version", "chain_revision", "page_size", "page_count", "checksum"):
            # The first session creates the record, with the fields of EMPTY_HEAD.
            sets[name] = f"if_not_exists(#{name}, :zero)"
        values = {":zero": _number(0), ":one": _number(1), ":none": _packed({}), ":empty": {"L": []}}
        values[":settled"] = _SETTLED
        if session.state:
            sets["state"] = {"B": session.state}
        update = _update(sets, values, removes=("prepared",) if session.state else ("prepared", "state"))
        guard = "attribute_not_exists(#session) OR #session <> :session OR #seq <= :seq"
        update |= {"ConditionExpression": guard, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
        return self._write(
            database,
            update,
            lambda head: transitions.open_session(head, session),
            lambda head: transitions.has_opened(head, session),
        )

    def append(self, database: DatabaseId, session_id: str, entry: JournalEntry) -> Head:
        sets: dict[str, str | dict[str, Any]] = {
            "seq": "#seq + :one",
            "journal": "list_append(#journal, :entry)",
        }
        values = {":one": _number(1), ":entry": {"L": [_packed(entry)]}}
        guard = {"session": _text(session_id)}
        return self._write(
            database,
            _update(sets, values, guard, removes=("prepared",)),
            lambda head: transitions.append(head, session_id, entry),
            lambda head: transitions.has_appended(head, session_id, entry),
        )

    def update_session(
        self, database: DatabaseId, token: int, session_id: str, seq: int, update: SessionUpdate
    ) -> Head:
        sets: dict[str, str | dict[str, Any]] = {"seq": _number(seq + 1)}
        if update.state is not None:
            sets["state"] = {"B": update.state}
        if update.journal is not None:
            sets["journal"] = {"L": [_packed(entry) for entry in update.journal]}
        if update.prepared is not None:
            sets["prepared"] = _packed(update.prepared)
        guard = {"token": _number(token), "session": _text(session_id), "seq": _number(seq)}
        return self._write(
            database,
            _update(sets, {}, guard, removes=() if update.prepared else ("prepared",)),
            lambda head: transitions.update_session(head, token, session_id, seq, update),
            lambda head: transitions.has_updated(head, token, session_id, seq, update),
        )

    def close_session(self, database: DatabaseId, token: int, session_id: str) -> bool:
        guard = {"token": _number(token), "session": _text(session_id)}

        try:
            self._write(
                database,
                _update({}, {}, guard, removes=_SESSION),
                lambda head: _closed(head, token, session_id),
                lambda head: head is not None and head.token == token and head.session is None,
            )
        except _NotRunning:
            return False
        return True

    def advance_head(self, database: DatabaseId, update: HeadUpdate) -> Head:
        transitions.check_head_update(update)
        return self._write(
            database,
            _head_update_update(update),
            lambda head: transitions.advance_head(head, update),
            lambda head: transitions.was_applied(head, update),
        )

    def replace_chain(
        self, database: DatabaseId, token: int, chain_revision: int, chain: tuple[ChainEntry, ...]
    ) -> Head:
        reached = transitions.check_chain(chain)
        sets: dict[str, str | dict[str, Any]] = {
            "chain": {"L": [_packed(entry) for entry in chain]},
            "chain_revision": _number(chain_revision + 1),
        }
        guard = {
            "token": _number(token),
            "chain_revision": _number(chain_revision),
            "version": _number(reached),
        }
        return self._write(
            database,
            _update(sets, {}, guard),
            lambda head: transitions.replace_chain(head, token, chain_revision, chain),
            lambda head: transitions.has_replaced(head, token, chain_revision, chain),
        )

    def replace_head(self, database: DatabaseId, found: Head | None, head: Head) -> None:
        transitions.replace_head(found, found, head)
        sets: dict[str, str | dict[str, Any]] = {
            "format": _FORMAT,
            "listing": _CHANGED,
            "stamps": _packed(head.stamps),
            "chain": {"L": [_packed(entry) for entry in head.chain]},
        }
        for name in ("version", "token", "chain_revision", "page_size", "page_count", "checksum"):
            sets[name] = _number(getattr(head, name))
        for made, recent in enumerate(head.recent, head.version - len(head.recent) + 1):
            sets[_recent_name(made)] = _packed(recent)
        guard = {}
        if found is not None:
            guard = {name: _number(getattr(found, name)) for name in ("version", "token", "chain_revision")}
        update = _update(sets, {}, guard, removes=_SESSION)
        if found is None:
            update |= _IF_ABSENT
        self._write(
            database,
            update,
            lambda before: transitions.replace_head(before, found, head),
            lambda before: before == head,
        )

    def list(self, user: UserId | None = None) -> Iterator[DatabaseId]:
        return self._list() if user is None else databases_of(user, self.find)

    def list_changed(self, since_ms: int) -> Iterator[DatabaseId]:
        del since_ms  # the records themselves tell
        return self._query(_CHANGED)

    def settle(self, database: DatabaseId, chain_revision: int) -> None:
        guard = {"chain_revision": _number(chain_revision)}
        try:
            with mapped(str(database)):
                self._client.update_item(**self._at(database), **_update({"listing": _SETTLED}, {}, guard))
        except StorageError as exc:
            failure = exc.__cause__
            if not isinstance(failure, ClientError) or code_of(failure) != _GUARD_FAILED:
                raise

    def delete(self, database: DatabaseId) -> None:
        with mapped(str(database)):
            self._client.delete_item(**self._at(database))

    def _list(self) -> Iterator[DatabaseId]:
        last = None
        # Both queries are ordered, and so is the result.
        for database in heapq.merge(self._query(_SETTLED), self._query(_CHANGED)):
            if database != last:  # one that changes `listing` meanwhile may come twice
                yield database
            last = database

    def _query(self, listing: dict[str, str]) -> Iterator[DatabaseId]:
        """Databases by the index, in the port's order: `#` sorts before all characters of a user id."""
        request = {
            "TableName": self._table,
            "IndexName": LISTING_INDEX,
            "KeyConditionExpression": "listing = :head",
            "ExpressionAttributeValues": {":head": listing},
        }
        while True:
            with mapped(f"heads of {self._table}"):
                answer = _sound(self._client.query(**request))
            for item in answer["Items"]:
                user, _, kind = item["pk"]["S"].rpartition("#")
                yield DatabaseId(UserId(user), DatabaseKind(kind))
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def _at(self, database: DatabaseId) -> dict[str, Any]:
        check_user(database.user)
        return {"TableName": self._table, "Key": {"pk": {"S": f"{database.user}#{database.kind.value}"}}}

    def _write(
        self,
        database: DatabaseId,
        update: dict[str, Any],
        transition: Callable[[Head | None], Head],
        landed: Callable[[Head | None], bool],
    ) -> Head:
        """Make a conditional update, and return the head after it. Raises what `transition` does.

        `landed(head)` is whether a head shows that the update was applied.
        """
        at = self._at(database)
        for _ in range(_ATTEMPTS):
            try:
                with mapped(str(database)):
                    answer = _sound(self._client.update_item(**at, **update, ReturnValues="ALL_NEW"))
                return _head(database, answer["Attributes"])
            except Unavailable:
                # The write may have been applied, and only its answer lost.
                head = self.find(database)
                if head is not None and landed(head):
                    return head
                raise
            except StorageError as exc:
                failure = exc.__cause__
                if not isinstance(failure, ClientError) or code_of(failure) != _GUARD_FAILED:
                    raise
                item = failure.response.get("Item")  # DynamoDB-compatible engines may leave it out
                head = _head(database, item) if item else self.find(database)
                # The SDK sent it twice: the first attempt may have changed the record, which made the
                # second one fail.
                if head is not None and was_repeated(failure.response) and landed(head):
                    return head
                after = transition(head)  # raises the error that the failed condition means
                # The update was applied before (a repeated flip): nothing to write.
                if after is head:
                    return after
        raise Unavailable(f"{database}: no agreement on the record")


def _sound(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer. Raises: Unavailable if its checksum was wrong at every attempt."""
    if gave_up(answer):
        raise Unavailable("an answer with a wrong checksum, again and again")
    return answer


class _NotRunning(Exception):
    """The session to be closed is not running."""


def _closed(head: Head | None, token: int, session_id: str) -> Head:
    after = transitions.close_session(head, token, session_id)
    if after is None:
        raise _NotRunning
    return after


def _head_update_update(update: HeadUpdate) -> dict[str, Any]:
    entry, version = update.entry, update.base_version + 1
    recent = Recent(update.commit_id, update.answer, update.time_ms)
    sets: dict[str, str | dict[str, Any]] = {
        "format": _FORMAT,
        "listing": _CHANGED,
        "version": _number(version),
        "chain_revision": "if_not_exists(#chain_revision, :zero) + :one",
        "page_size": _number(entry.page_size),
        "page_count": _number(entry.page_count),
        "checksum": _number(entry.checksum),
        "stamps": _packed(update.stamps),
        _recent_name(version): _packed(recent),
    }
    values: dict[str, Any] = {":zero": _number(0), ":one": _number(1)}
    if entry.kind is EntryKind.SNAPSHOT:
        sets["chain"] = {"L": [_packed(entry)]}
    else:
        sets["chain"] = "list_append(#chain, :entry)"
        values[":entry"] = {"L": [_packed(entry)]}
    guard = {"version": _number(update.base_version), "token": _number(update.token)}
    if update.session_id is not None:
        # With a session: also its id and `seq`, and the token stays.
        guard |= {"session": _text(update.session_id), "seq": _number(update.seq)}
        return _update(sets, values, guard, removes=_SESSION)
    sets["token"] = _number(update.token + 1)
    if update.base_version == update.token == 0:
        # Token 0 means that there is no record: the first write of any record makes the token 1.
        return _update(sets, values, removes=_SESSION) | _IF_ABSENT
    return _update(sets, values, guard, removes=_SESSION)


def _update(
    sets: dict[str, str | dict[str, Any]],
    values: dict[str, Any],
    guard: dict[str, dict[str, Any]] | None = None,
    *,
    removes: Sequence[str] = (),
) -> dict[str, Any]:
    """The arguments of `update_item`. `sets`: attribute -> expression (str) or value (dict).

    `guard`: attribute -> value that it must have.
    """
    values = dict(values)
    assignments = []
    for name, what in sets.items():
        if isinstance(what, dict):
            values[f":{name}"] = what
        assignments.append(f"#{name} = " + (f":{name}" if isinstance(what, dict) else what))
    clauses = []
    if assignments:
        clauses.append("SET " + ", ".join(assignments))
    if removes:
        clauses.append("REMOVE " + ", ".join(f"#{name}" for name in removes))
    names = {*sets, *(guard or ()), *removes}
    arguments: dict[str, Any] = {
        "UpdateExpression": " ".join(clauses),
        "ExpressionAttributeNames": {f"#{name}": name for name in names},
        "ExpressionAttributeValues": values,
    }
    if guard:
        # The condition: each attribute has the value that was read.
        values |= {f":was_{name}": value for name, value in guard.items()}
        arguments["ConditionExpression"] = " AND ".join(f"#{name} = :was_{name}" for name in guard)
        arguments["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
    return arguments


def _head(database: DatabaseId, item: dict[str, Any]) -> Head:
    found = _int(item.get("format", {"N": "0"}))
    if found != FORMAT_VERSION:
        raise StorageError(f"{database}: the record has format version {found}, not {FORMAT_VERSION}")
    try:
        return _decoded(item)
    except (KeyError, ValueError, msgspec.MsgspecError) as exc:
        raise Corrupt(str(database), "a head record", repr(exc)) from exc


def _decoded(item: dict[str, Any]) -> Head:
    version, token = _int(item["version"]), _int(item["token"])
    session = None
    if "session" in item:
        journal = tuple(_entries.decode(value["B"]) for value in item["journal"]["L"])
        session = Session(
            id=item["session"]["S"],
            token=token,
            base_version=_int(item["base_version"]),
            seq=_int(item["seq"]),
            merge_revision=_int(item["merge_revision"]),
            started_ms=_int(item["started_ms"]),
            journal=journal,
            state=item["state"]["B"] if "state" in item else b"",
            prepared=_prepared.decode(item["prepared"]["B"]) if "prepared" in item else None,
        )
    # The attributes of the last RECENT_KEPT versions, oldest first.
    told = range(max(1, version - RECENT_KEPT + 1), version + 1)
    return Head(
        version=version,
        token=token,
        chain_revision=_int(item["chain_revision"]),
        page_size=_int(item["page_size"]),
        page_count=_int(item["page_count"]),
        checksum=_int(item["checksum"]),
        stamps=_stamps.decode(item["stamps"]["B"]),
        chain=tuple(_links.decode(value["B"]) for value in item["chain"]["L"]),
        recent=tuple(_recents.decode(item[_recent_name(made)]["B"]) for made in told),
        session=session,
    )


def _recent_name(version: int) -> str:
    """The attribute for the `Recent` of a version.

    A ring of RECENT_KEPT attributes, since one update cannot both append to a list and shorten it.
    """
    return f"recent{version % RECENT_KEPT}"


def _number(value: int) -> dict[str, str]:
    return {"N": str(value)}


def _int(value: dict[str, str]) -> int:
    return int(value["N"])


def _text(value: str) -> dict[str, str]:
    return {"S": value}


def _packed(value: object) -> dict[str, bytes]:
    return {"B": _encode(value)}
