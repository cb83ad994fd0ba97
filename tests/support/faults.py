"""Stores that count their calls, and fail chosen ones before or after they landed.

    faults = Faults()
    store = DatabaseStore(faults.heads(heads), faults.objects(objects), ...)
    faults.fail(3, landed=True)          # the third call from now does its work, then raises
    faults.fail_next("advance_head", landed=False)
    ...
    assert faults.count("put") == 1

Calls of all stores of one `Faults` share one numbering, in the order they are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from storage.errors import Unavailable
from storage.heads.base import HeadStore
from storage.objects.base import ObjectStore

WRITES = frozenset(
    {
        "put",
        "put_many",
        "put_file",
        "open_session",
        "append",
        "update_session",
        "close_session",
        "advance_head",
        "replace_chain",
    }
)


@dataclass(frozen=True)
class Call:
    """One call of a store: `subject` is the key, the keys or the database, as text."""

    number: int
    store: str
    method: str
    subject: str
    bytes_put: int


@dataclass(frozen=True)
class Fault:
    """What happens to a call: an error before or after it landed, or spoilt bytes of a read."""

    error: BaseException | None
    landed: bool
    spoil: Callable[[bytes], bytes] | None = None


class Faults:
    """The plan of failures, and the record of calls, of any number of stores."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._by_number: dict[int, Fault] = {}
        self._by_method: dict[str, list[Fault]] = {}
        self.watch: Callable[[Call], None] | None = None
        """Called before each call; what it raises takes the place of the call."""

    def objects(self, inner: ObjectStore) -> FaultyObjectStore:
        return FaultyObjectStore(inner, self)

    def heads(self, inner: HeadStore) -> FaultyHeadStore:
        return FaultyHeadStore(inner, self)

    def fail(self, nth: int, *, landed: bool, error: BaseException | None = None) -> None:
        """Fail the nth call from now (1 is the next one)."""
        self._by_number[len(self.calls) + nth] = Fault(error or _unavailable(), landed)

    def fail_next(self, method: str, *, landed: bool, error: BaseException | None = None) -> None:
        """Fail the next call of a method; several of them fail one call each."""
        self._by_method.setdefault(method, []).append(Fault(error or _unavailable(), landed))

    def spoil_next(self, method: str, spoil: Callable[[bytes], bytes]) -> None:
        """Change the bytes that the next `read`, or the first piece of the next `stream`, gives."""
        self._by_method.setdefault(method, []).append(Fault(None, landed=True, spoil=spoil))

    def clear(self) -> None:
        """Forget calls and plans."""
        self.calls.clear()
        self._by_number.clear()
        self._by_method.clear()

    def count(self, *methods: str) -> int:
        """How many calls there were, of these methods or of all."""
        return sum(1 for call in self.calls if not methods or call.method in methods)

    def writes(self) -> int:
        return self.count(*WRITES)

    def bytes_put(self) -> int:
        return sum(call.bytes_put for call in self.calls)

    def run(self, store: str, method: str, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        call = Call(len(self.calls) + 1, store, method, _subject(args), _size(method, args))
        self.calls.append(call)
        if self.watch is not None:
            self.watch(call)
        fault = self._by_number.pop(call.number, None) or self._next_of(method)
        if fault is None:
            return function(*args)
        if not fault.landed and fault.error is not None:
            raise fault.error
        answer = function(*args)
        if fault.error is not None:
            raise fault.error
        return _spoilt(answer, fault.spoil) if fault.spoil else answer

    def _next_of(self, method: str) -> Fault | None:
        planned = self._by_method.get(method)
        return planned.pop(0) if planned else None


class FaultyObjectStore:
    """An object store whose calls go by a plan."""

    def __init__(self, inner: ObjectStore, faults: Faults) -> None:
        self.inner, self.faults = inner, faults

    def put(self, key, content):
        return self.faults.run("objects", "put", self.inner.put, (key, content))

    def put_many(self, items):
        return self.faults.run("objects", "put_many", self.inner.put_many, (list(items),))

    def put_file(self, key, path):
        return self.faults.run("objects", "put_file", self.inner.put_file, (key, path))

    def read(self, key, start=0, length=None):
        return self.faults.run("objects", "read", self.inner.read, (key, start, length))

    def read_many(self, keys):
        return self.faults.run("objects", "read_many", self.inner.read_many, (list(keys),))

    def stream(self, key):
        return self.faults.run("objects", "stream", self.inner.stream, (key,))

    def find(self, key):
        return self.faults.run("objects", "find", self.inner.find, (key,))

    def list(self, prefix):
        return self.faults.run("objects", "list", self.inner.list, (prefix,))

    def delete(self, keys):
        return self.faults.run("objects", "delete", self.inner.delete, (list(keys),))

    def delete_old(self, keys, before_ms):
        return self.faults.run("objects", "delete_old", self.inner.delete_old, (list(keys), before_ms))


class FaultyHeadStore:
    """A head store whose calls go by a plan."""

    def __init__(self, inner: HeadStore, faults: Faults) -> None:
        self.inner, self.faults = inner, faults

    def find(self, database):
        return self.faults.run("heads", "find", self.inner.find, (database,))

    def find_many(self, databases):
        return [self.find(database) for database in databases]

    def open_session(self, database, session):
        return self.faults.run("heads", "open_session", self.inner.open_session, (database, session))

    def append(self, database, session_id, entry):
        args = (database, session_id, entry)
        return self.faults.run("heads", "append", self.inner.append, args)

    def update_session(self, database, token, session_id, seq, update):
        args = (database, token, session_id, seq, update)
        return self.faults.run("heads", "update_session", self.inner.update_session, args)

    def close_session(self, database, token, session_id):
        args = (database, token, session_id)
        return self.faults.run("heads", "close_session", self.inner.close_session, args)

    def advance_head(self, database, update):
        return self.faults.run("heads", "advance_head", self.inner.advance_head, (database, update))

    def replace_head(self, database, found, head):
        return self.faults.run("heads", "replace_head", self.inner.replace_head, (database, found, head))

    def replace_chain(self, database, token, chain_revision, chain):
        args = (database, token, chain_revision, chain)
        return self.faults.run("heads", "replace_chain", self.inner.replace_chain, args)

    def list(self, user=None):
        return self.faults.run("heads", "list", self.inner.list, (user,))

    def list_changed(self, since_ms):
        return self.faults.run("heads", "list_changed", self.inner.list_changed, (since_ms,))

    def settle(self, database, chain_revision):
        return self.faults.run("heads", "settle", self.inner.settle, (database, chain_revision))

    def delete(self, database):
        return self.faults.run("heads", "delete", self.inner.delete, (database,))


def _unavailable() -> Unavailable:
    return Unavailable("planned by the test")


def _subject(args: tuple[Any, ...]) -> str:
    first = args[0]
    if isinstance(first, list):
        return " ".join(item if isinstance(item, str) else item[0] for item in first)
    return str(first)


def _size(method: str, args: tuple[Any, ...]) -> int:
    if method == "put":
        return len(args[1])
    if method == "put_many":
        return sum(len(content) for _, content in args[0])
    if method == "put_file":
        return args[1].stat().st_size
    return 0


def _spoilt(answer: bytes | Iterable[bytes], spoil: Callable[[bytes], bytes]) -> bytes | Iterator[bytes]:
    if isinstance(answer, bytes):
        return spoil(answer)
    pieces = iter(answer)
    return (spoil(piece) if number == 0 else piece for number, piece in enumerate(pieces))
