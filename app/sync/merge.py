"""Merges the journal of a sync into a checkout of its collection. Called by `session` for `sanityCheck2`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from app.errors import NotApplicable
from app.sync import changes, graves, messages, sanity
from app.sync.journal import SyncState, read_body
from app.sync.messages import APPLY_CHANGES, APPLY_GRAVES, SanityAnswer, SanityRequest
from storage.collection.collection import Collection
from storage.collection.engine.codec import Codec
from storage.collection.errors import InvalidChange
from storage.collection.records import Chunk
from storage.collection.stamps import Stamps
from storage.database.local.checkout import Checkout, local_disk
from storage.types import Head, JournalEntry, Offload, Session, run_inline

SHORT_BYTES = 16 * 1024
"""Messages up to this size in total have about a hundred rows, and are merged on the event loop: that
takes less time than handing the work to a native thread."""

SMALL_COLLECTION_CARDS = 10_000
"""Cards are unburied on the event loop in a collection of at most so many: usually few of them are buried."""

T = TypeVar("T")


@dataclass(slots=True)
class Merge:
    """The merge of one sync, in a checkout of the version that the sync is based on."""

    checkout: Checkout
    head: Head
    session: Session
    state: SyncState
    codec: Codec
    offload: Offload[Any]
    executor: Offload[Any] = run_inline
    """Runs the work: on the event loop if it is short, else `offload`."""
    _collection: Collection = field(init=False)

    def __post_init__(self) -> None:
        self._collection = Collection(self.checkout.connection, self.codec, self.head.stamps)

    def run(self, journal: Iterable[tuple[JournalEntry, bytes]]) -> None:
        """Apply all messages in one transaction, which stays open. Raises: NotApplicable."""
        now_s = self.session.started_ms // 1000
        self.checkout.begin()
        usn = self._collection.usn
        unburying = self._collection.plan_unburying(now_s)
        size_bytes = sum(entry.size_bytes for entry in self.session.journal)
        if size_bytes > SHORT_BYTES or (unburying.is_due and not self._is_small()):
            self.executor = self.offload
        # First, as the official server does it when a sync starts.
        self._do(lambda: self._collection.unbury(unburying, now_s))
        last = b""
        for entry, frame in journal:
            if entry.digest != last:  # else it arrived twice, as the answer to the first was lost
                self._do(partial(self._apply, entry, frame, usn))
            last = entry.digest

    def _is_small(self) -> bool:
        return int(self.head.stamps.get("cards", SMALL_COLLECTION_CARDS + 1)) <= SMALL_COLLECTION_CARDS

    def _do(self, work: Callable[[], T]) -> T:
        with local_disk():
            try:
                result: T = self.executor(work)
            except InvalidChange as exc:
                raise NotApplicable(str(exc)) from exc
        return result

    def _apply(self, entry: JournalEntry, frame: bytes, usn: int) -> None:
        body, collection = read_body(frame), self._collection
        if entry.method == APPLY_GRAVES:
            deleted = messages.read_apply_graves(body).graves
            collection.apply_graves(graves.to_storage(deleted), usn)
        elif entry.method == APPLY_CHANGES:
            changed = changes.to_storage(messages.read_apply_changes(body).changes)
            # If the server's config was newer, it has been sent to the client.
            sent_config = not self.state.client_is_newer
            collection.apply_changes(changed, usn, entry.now_ms // 1000, sent_config=sent_config)
        else:
            rows = messages.read_apply_chunk(body).chunk
            collection.apply_chunk(Chunk(rows.revlog, rows.cards, rows.notes), self.state.client_usn)

    def check(self, request: SanityRequest) -> SanityAnswer:
        """Compare the row counts of the merged collection with the client's."""
        if not sanity.is_settled_by_carried_counts(request, self._collection):
            self.executor = self.offload
        return self._do(lambda: sanity.sanity_check(request, self._collection))

    def stamp(self, now_ms: int) -> tuple[int, Stamps]:
        """Set the collection's modification time; returns it (ms) and the stamps. The client adopts the time.

        It is later than the last one even if this machine's clock is behind.
        """
        # Clients compare this time with theirs to find out whether there are changes.
        mod_ms = max(now_ms, int(self.head.stamps["mod"]) + 1)

        def work() -> Stamps:
            self._collection.finish(mod_ms)
            return self._collection.stamps()

        return mod_ms, self._do(work)
