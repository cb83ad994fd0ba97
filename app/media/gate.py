"""The one way to a user's media index: checkout, transaction, commit, and another try on conflict.

The steps of the protocol pass functions over a `MediaIndex`.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import apsw

from storage.database.origin import MEDIA_CHANGE, Origin, name_commit
from storage.database.store import Checkout, Commit, DatabaseStore
from storage.errors import Conflict
from storage.media.index import MediaIndex, create_empty
from storage.objects.base import Objects
from storage.types import DatabaseId, DatabaseKind, Head, Offload, UserId, run_here

T = TypeVar("T")
Stamps = dict[str, int | bool]

_PATIENCE_S = 20.0
"""From when on no other try is begun. Clients give up when nothing comes for 30 s."""
_LEAST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 1.0


class Waiting(NamedTuple):
    """How to wait between two tries."""

    sleep: Callable[[float], None]
    """Lets the process go on."""
    monotonic_s: Callable[[], float]


class Changed(NamedTuple):
    """What became of a change."""

    stamps: Stamps
    """That hold now."""
    is_committed: bool


class IndexGate:
    """Reads and changes media indexes.

    `locks` gives the lock of a database within this process: two requests of one user would only
    make each other's commit fail. Between processes the head's guard decides: each conflict means that
    another process has committed a batch of the same user, and the next try waits for a random time.
    """

    def __init__(  # noqa: PLR0913 - collaborators by name
        self,
        store: DatabaseStore,
        *,
        locks: Callable[[DatabaseId], AbstractContextManager[Any]],
        offload: Offload[Any],
        clock_ms: Callable[[], int],
        nonce: Callable[[], str],
        scratch: Path,
        waiting: Waiting,
    ) -> None:
        self._store = store
        self._locks = locks
        self._offload = offload
        self._clock_ms = clock_ms
        self._nonce = nonce
        self._scratch = scratch
        self._waiting = waiting

    def head(self, user: UserId) -> Head:
        """The head record, for what can be answered from it alone."""
        return self._store.head(DatabaseId(user, DatabaseKind.MEDIA))

    def read(self, user: UserId, function: Callable[[MediaIndex], T], *, otherwise: T) -> T:
        """What `function` finds in the index; `otherwise` for a user who never had media."""

        def attempt(database: DatabaseId) -> T:
            head = self._store.head(database)
            if head.version == 0:
                return otherwise
            checkout = self._store.checkout(database, head)
            with self._store.discarding(checkout):
                result: T = self._offload(lambda: function(MediaIndex(checkout.connection)))
            self._store.release(checkout)
            return result

        return self._with_tries(user, attempt)

    def change(
        self,
        user: UserId,
        function: Callable[[MediaIndex], bool],
        *,
        beside: Objects = (),
        origin: Origin = MEDIA_CHANGE,
    ) -> Changed:
        """Let `function` change the index and commit that; nothing is committed where it returns False.

        `beside` are objects that the change relies on, put with the commit if there is one. `function`
        may be called several times, each time on the newest version. `origin` is kept with the
        version. Raises: Conflict when others were faster for as long as a client waits.
        """
        left = beside

        @contextlib.contextmanager
        def putting() -> Iterator[Objects]:
            """What is still to be put: a commit that lost to another one has put it."""
            nonlocal left
            try:
                yield left
            except Conflict:
                left = ()
                raise

        def attempt(database: DatabaseId) -> Changed:
            head = self._store.head(database)
            if head.version == 0:
                with putting() as objects:
                    return self._create(database, head, function, objects, origin)
            checkout = self._store.checkout(database, head)
            with self._store.discarding(checkout):
                stamps: Stamps | None = self._offload(lambda: _changed(checkout, function))
            if stamps is not None:
                # A batch has 25 files at most, whose rows are committed in less time than a hop to a thread
                # takes. A commit discards on its own.
                commit = self._commit(stamps, origin)
                with putting() as objects:
                    self._store.commit(checkout, head, commit, beside=objects, way=run_here)
            self._store.release(checkout)
            return _outcome(head, stamps)

        return self._with_tries(user, attempt)

    def _create(
        self,
        database: DatabaseId,
        head: Head,
        function: Callable[[MediaIndex], bool],
        beside: Objects,
        origin: Origin,
    ) -> Changed:
        """The first change of a user: a new file becomes the first version."""
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix="media-") as folder:
            path = Path(folder, "index")
            stamps: Stamps | None = self._offload(lambda: _created(path, function))
            if stamps is not None:
                self._store.replace(database, head, path, self._commit(stamps, origin), beside=beside)
        return _outcome(head, stamps)

    def _commit(self, stamps: Stamps, origin: Origin) -> Commit:
        name = name_commit(origin.kind, self._nonce(), origin.device)
        return Commit(commit_id=name, answer=b"", now_ms=self._clock_ms(), stamps=stamps, session=None)

    def _with_tries(self, user: UserId, attempt: Callable[[DatabaseId], T]) -> T:
        database = DatabaseId(user, DatabaseKind.MEDIA)
        end_s = self._waiting.monotonic_s() + _PATIENCE_S
        longest_s = _LEAST_PAUSE_S
        with self._locks(database):
            while True:
                try:
                    return attempt(database)
                except Conflict:
                    if self._waiting.monotonic_s() >= end_s:
                        raise
                self._waiting.sleep(random.uniform(0, longest_s))  # noqa: S311 - nothing to guess
                longest_s = min(2 * longest_s, _LONGEST_PAUSE_S)


def _outcome(head: Head, stamps: Stamps | None) -> Changed:
    return Changed(head.stamps if stamps is None else stamps, stamps is not None)


def _changed(checkout: Checkout, function: Callable[[MediaIndex], bool]) -> Stamps | None:
    checkout.begin()
    index = MediaIndex(checkout.connection)
    if not function(index):
        checkout.rollback()
        return None
    return index.stamps()


def _created(path: Path, function: Callable[[MediaIndex], bool]) -> Stamps | None:
    create_empty(path)
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        connection.pragma("synchronous", "off")  # the store makes it durable
        index = MediaIndex(connection)
        with connection:
            is_changed = function(index)
        return index.stamps() if is_changed else None
