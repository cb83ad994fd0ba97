"""Reads and changes a user's media index: checkout, transaction, commit, and retry on conflict.

Used by all methods of the media protocol, which pass functions that work on a `MediaIndex`.
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
from storage.types import DatabaseId, DatabaseKind, Head, Offload, UserId, run_inline

T = TypeVar("T")
Stamps = dict[str, int | bool]

_PATIENCE_S = 20.0
"""After this time no other attempt is started. Clients give up after 30 s without an answer."""
_LEAST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 1.0


class Waiting(NamedTuple):
    """How to wait between two attempts."""

    sleep: Callable[[float], None]
    """Sleeps without blocking the event loop."""
    monotonic_s: Callable[[], float]


class Changed(NamedTuple):
    """The result of a change."""

    stamps: Stamps
    """The current ones, after the change."""
    is_committed: bool


class IndexGate:
    """Reads and changes media indexes.

    `locks` gives the lock of a database in this process, as two requests of one user would only make each
    other's commits fail. Between processes the condition of the head update decides: a conflict means that
    another process has committed a batch of the same user, and the next attempt starts after a random
    time.
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
        """The head record, for answers that need nothing else."""
        return self._store.head(DatabaseId(user, DatabaseKind.MEDIA))

    def read(self, user: UserId, function: Callable[[MediaIndex], T], *, otherwise: T) -> T:
        """Call `function` with the index, and return its result; `otherwise` if the user never had media."""

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
        extra_objects: Objects = (),
        origin: Origin = MEDIA_CHANGE,
    ) -> Changed:
        """Let `function` change the index and commit that; nothing is committed where it returns False.

        `extra_objects` are objects that the change relies on, put with the commit if there is one. `function`
        may be called several times, each time on the newest version. `origin` is kept with the
        version. Raises: Conflict when others were faster for as long as a client waits.
        """
        left = extra_objects

        @contextlib.contextmanager
        def putting() -> Iterator[Objects]:
            """The objects that are not put yet: a commit that fails with Conflict has put them already."""
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
                # A batch has at most 25 rows, which are committed in less time than handing the work to a
                # thread takes. If the commit fails, it discards the checkout itself.
                commit = self._commit(stamps, origin)
                with putting() as objects:
                    self._store.commit(checkout, head, commit, extra_objects=objects, executor=run_inline)
            self._store.release(checkout)
            return _outcome(head, stamps)

        return self._with_tries(user, attempt)

    def _create(
        self,
        database: DatabaseId,
        head: Head,
        function: Callable[[MediaIndex], bool],
        extra_objects: Objects,
        origin: Origin,
    ) -> Changed:
        """Make the first change of a user: a new index becomes version 1."""
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix="media-") as folder:
            path = Path(folder, "index")
            stamps: Stamps | None = self._offload(lambda: _created(path, function))
            if stamps is not None:
                self._store.replace(
                    database, head, path, self._commit(stamps, origin), extra_objects=extra_objects
                )
        return _outcome(head, stamps)

    def _commit(self, stamps: Stamps, origin: Origin) -> Commit:
        name = name_commit(origin.kind, self._nonce(), origin.device)
        return Commit(commit_id=name, answer=b"", now_ms=self._clock_ms(), stamps=stamps, session=None)

    def _with_tries(self, user: UserId, attempt: Callable[[DatabaseId], T]) -> T:
        database = DatabaseId(user, DatabaseKind.MEDIA)
        end_s = self._waiting.monotonic_s() + _PATIENCE_S
        longest_s = _LEAST_PAUSE_S
        # Held while waiting, too: other requests of this process for the same user wait here.
        with self._locks(database):
            while True:
                try:
                    return attempt(database)
                except Conflict:
                    if self._waiting.monotonic_s() >= end_s:
                        raise
                self._waiting.sleep(random.uniform(0, longest_s))  # noqa: S311 - nothing to guess
                # Exponential back-off with full jitter.
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
