"""What becomes of each call of the AWS backends under each fault: `storage/FAULTS.md`.

python -m tests.support.fault_table > storage/FAULTS.md
"""

from __future__ import annotations

import itertools
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from msgspec import structs

from storage.errors import Corrupt, StorageError, Unavailable
from storage.heads import transitions
from storage.heads.dynamodb import DynamoHeadStore
from storage.heads.s3 import S3HeadStore
from storage.objects.s3 import S3ObjectStore
from storage.types import EMPTY_HEAD
from tests.support import aws
from tests.support.aws_wire import FAULTS, FLIPPED, Fault, Wire
from tests.support.records import collection_of, head_update_of, journal_entry, new_session, snapshot

LASTING = 100
BIG = (1 << 20) + 16
PREFACE = """# What becomes of each call under each fault

Made by `python -m tests.support.fault_table` from real calls over a disturbed wire; a test compares
it with this file. `a / b`: *a* where the fault happens once (the SDK or the store repeats the
request), *b* where it lasts for that kind of request.

- **done**: the call returned, and its effect is there exactly once.
- **away**: `Unavailable`, and nothing of the call is there.
- **away, landed**: `Unavailable`, but the effect is there, exactly once. Only calls that may be
  repeated blindly end so.
- **corrupt**: `Corrupt`; nothing is built on such bytes.
- **given on**: the store does not know what the bytes should be; who asked for them has their
  SHA-256.

A flipped bit is one in the body of an answer that brings content or a record; other answers bring
a status and ids, which TLS guards. Those of requests are found by the engines, which are sent
checksums.
"""


@dataclass(frozen=True)
class Case:
    """One call: what is prepared with a sound store, the call, and whether its effect is there."""

    backend: str
    call: str
    operations: tuple[str, ...]
    prepare: Callable
    act: Callable
    effect: Callable
    """Of the sound store, the place and the call's answer: True, False or "given on"."""


def object_cases() -> list[Case]:
    def prepared(store, place):
        store.put(f"{place}/a", b"content of a" * 100)

    def nothing(store, place):
        pass

    def file_of(size):
        path = Path(tempfile.mkdtemp()) / "source"
        path.write_bytes(b"0123456789abcdef" * (size // 16))
        return path

    def is_there(store, place, answer):
        return store.find(f"{place}/a") is not None

    def same(expected):
        return lambda store, place, answer: True if answer == expected else "given on"

    content = b"content of a" * 100
    listing = lambda store, place: [found.key for found in store.list(place)]  # noqa: E731
    one = "S3 objects"
    return [
        Case(one, "put", ("PutObject",), nothing, lambda s, p: s.put(f"{p}/a", content), is_there),
        Case(
            one,
            "put_file",
            ("PutObject",),
            nothing,
            lambda s, p: s.put_file(f"{p}/a", file_of(1000)),
            is_there,
        ),
        Case(
            one,
            "put_file in parts",
            ("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"),
            nothing,
            lambda s, p: s.put_file(f"{p}/a", file_of(BIG)),
            lambda s, p, _: (found := s.find(f"{p}/a")) is not None and found.size_bytes == BIG,
        ),
        Case(one, "read", ("GetObject",), prepared, lambda s, p: s.read(f"{p}/a"), same(content)),
        Case(
            one,
            "read a range",
            ("GetObject",),
            prepared,
            lambda s, p: s.read(f"{p}/a", 5, 50),
            same(content[5:55]),
        ),
        Case(
            one, "stream", ("GetObject",), prepared, lambda s, p: b"".join(s.stream(f"{p}/a")), same(content)
        ),
        Case(
            one,
            "find",
            ("HeadObject",),
            prepared,
            lambda s, p: s.find(f"{p}/a").size_bytes,
            same(len(content)),
        ),
        Case(one, "list", ("ListObjectsV2",), prepared, listing, lambda s, p, answer: answer == [f"{p}/a"]),
        Case(
            one,
            "delete",
            ("DeleteObjects",),
            prepared,
            lambda s, p: s.delete([f"{p}/a"]),
            lambda s, p, _: s.find(f"{p}/a") is None,
        ),
        Case(
            one,
            "delete_old",
            ("HeadObject", "DeleteObject"),
            prepared,
            lambda s, p: s.delete_old([f"{p}/a"], FAR_FUTURE_MS),
            lambda s, p, _: s.find(f"{p}/a") is None,
        ),
    ]


def head_cases(backend: str, read: str, writes: tuple[str, ...], delete: str) -> list[Case]:
    def of(place):
        return collection_of(place)

    def session(store, place):
        store.advance_head(of(place), head_update_of(0, 0))
        store.open_session(of(place), new_session())

    def at(store, place):
        return store.find(of(place))

    def opened(store, place, answer):
        head = at(store, place)
        return head.session is not None and head.session.id == "other" and len(head.session.journal) == 1

    def appended(store, place, answer):
        """If its answer is lost it is sent again, and is there twice in a row: the merge takes it once."""
        now = at(store, place).session
        found = [entry for entry, _ in itertools.groupby(now.journal)]
        return now.seq == len(now.journal) and found == [journal_entry("start"), another]

    another = journal_entry(body=b"another")
    seen = structs.replace(EMPTY_HEAD, version=1, token=2, chain_revision=1)
    rebuilt = structs.replace(transitions.advance_head(EMPTY_HEAD, head_update_of(0, 0)), token=1 << 33)
    return [
        Case(backend, "find", (read,), session, at, lambda s, p, answer: answer == at(s, p)),
        Case(
            backend,
            "open_session",
            writes,
            session,
            lambda s, p: s.open_session(of(p), new_session("other")),
            opened,
        ),
        Case(
            backend,
            "append",
            writes,
            session,
            lambda s, p: s.append(of(p), "session", another),
            appended,
        ),
        Case(
            backend,
            "close_session",
            writes,
            session,
            lambda s, p: s.close_session(of(p), 2, "session"),
            lambda s, p, answer: at(s, p).session is None and answer in (True, None),
        ),
        Case(
            backend,
            "advance_head",
            writes,
            session,
            lambda s, p: s.advance_head(of(p), head_update_of(1, 2, session="session", seq=1)),
            lambda s, p, _: at(s, p).version == len(at(s, p).chain) == len(at(s, p).recent) == 2,
        ),
        Case(
            backend,
            "advance_head, no session",
            writes,
            session,
            lambda s, p: s.advance_head(of(p), head_update_of(1, 2)),
            lambda s, p, _: at(s, p).version == 2 and at(s, p).token == 3,
        ),
        Case(
            backend,
            "replace_chain",
            writes,
            session,
            lambda s, p: s.replace_chain(of(p), 2, 1, (snapshot(1, commit_id="new"),)),
            lambda s, p, _: at(s, p).chain_revision == 2 and at(s, p).chain[0].commit_ids == ("new",),
        ),
        Case(
            backend,
            "replace_head",
            writes,
            session,
            lambda s, p: s.replace_head(of(p), seen, rebuilt),
            lambda s, p, _: at(s, p) == rebuilt,
        ),
        Case(
            backend,
            "delete",
            (delete,),
            session,
            lambda s, p: s.delete(of(p)),
            lambda s, p, _: at(s, p) is None,
        ),
    ]


def settle_case() -> Case:
    """In S3 it does nothing."""

    def committed(store, place):
        store.advance_head(collection_of(place), head_update_of(0, 0))

    return Case(
        "DynamoDB heads",
        "settle",
        ("UpdateItem",),
        committed,
        lambda s, p: s.settle(collection_of(p), 1),
        lambda s, p, _: collection_of(p) not in set(s.list_changed(0)),
    )


def cases() -> list[Case]:
    return [
        *object_cases(),
        *head_cases("DynamoDB heads", "GetItem", ("UpdateItem",), "DeleteItem"),
        settle_case(),
        *head_cases("S3 heads", "GetObject", ("GetObject", "PutObject"), "DeleteObject"),
    ]


FAR_FUTURE_MS = 4_000_000_000_000
WORDS = {Unavailable: "away", Corrupt: "corrupt"}
BACKENDS = {
    "S3 objects": (S3ObjectStore, "s3"),
    "DynamoDB heads": (DynamoHeadStore, "dynamodb"),
    "S3 heads": (S3HeadStore, "s3"),
}


class Bench:
    """Sound stores and disturbed ones, side by side on one engine."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._bucket, self._table = aws.new_bucket(endpoint), aws.new_table(endpoint)
        self._sound = {backend: self._store(backend)[0] for backend in BACKENDS}
        self._disturbed = {backend: self._store(backend) for backend in BACKENDS}
        self._lasting = 0

    def _store(self, backend: str):
        make, service = BACKENDS[backend]
        client = aws.s3_client(self._endpoint) if service == "s3" else aws.dynamodb_client(self._endpoint)
        return make(client, self._bucket if service == "s3" else self._table), Wire(client)

    def _disturb(self, backend: str, operation: str, fault: Fault, times: int):
        # Now and then a new client, since one that had to repeat too much stops doing so.
        self._lasting += times == LASTING
        if self._lasting % 8 == 0:
            self._disturbed[backend] = self._store(backend)
        store, wire = self._disturbed[backend]
        wire.clear()
        wire.fault(operation, fault, times)
        return store

    def cell(self, case: Case, operation: str, fault: Fault) -> str:
        if fault is FLIPPED and operation not in {"GetObject", "GetItem", "UpdateItem"}:
            return "no content"
        once, lasting = (self.outcome(case, operation, fault, times) for times in (1, LASTING))
        return f"{once} / {lasting}"

    def outcome(self, case: Case, operation: str, fault: Fault, times: int) -> str:
        sound = self._sound[case.backend]
        place = f"p-{uuid.uuid4().hex}"
        case.prepare(sound, place)
        disturbed = self._disturb(case.backend, operation, fault, times)
        try:
            answer = case.act(disturbed, place)
        except StorageError as exc:
            word = WORDS[type(exc)]
            landed = self._changes(case) and case.effect(sound, place, None) is True
            return f"{word}, landed" if landed else word
        effect = case.effect(sound, place, answer)
        assert effect is not False, f"{case.backend}: {case.call} under {fault.name}: told done, but is not"
        return "done" if effect is True else str(effect)

    def _changes(self, case: Case) -> bool:
        return case.call.split()[0].rstrip(",") not in {"read", "stream", "find", "list"}


def table(endpoint: str) -> str:
    bench = Bench(endpoint)
    lines = [PREFACE]
    sleepless = SimpleNamespace(sleep=lambda _: None)
    with (
        mock.patch("botocore.endpoint.time", sleepless),
        mock.patch("storage.objects.s3._SINGLE_PUT_BYTES", 1 << 20),
    ):
        for backend, group in itertools.groupby(cases(), key=lambda case: case.backend):
            names = " | ".join(fault.name for fault in FAULTS)
            lines += [
                f"## {backend}",
                "",
                f"| call | request | {names} |",
                "| --- " * (len(FAULTS) + 2) + "|",
            ]
            for case in group:
                for operation in case.operations:
                    cells = [bench.cell(case, operation, fault) for fault in FAULTS]
                    lines.append(f"| {case.call} | {operation} | " + " | ".join(cells) + " |")
            lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    with aws.moto() as endpoint:
        print(table(endpoint), end="")
