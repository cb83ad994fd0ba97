"""The comparison of row counts in `sanityCheck2`. Called by `merge` and `session`.

The server's counts come from the stamps and the merge. Only if the two sides differ are the rows counted,
so that an error in the stamps costs time, but no full sync.
"""

from __future__ import annotations

from app.sync.messages import SanityAnswer, SanityCounts, SanityRequest
from storage.collection.collection import Collection

OK = "ok"
BAD = "bad"


def sanity_check(request: SanityRequest, collection: Collection) -> SanityAnswer:
    """Compare all counts except those of due cards and graves.

    Due counts are never equal, and the numbers of graves only since schema 18.
    """
    theirs = _comparable(request.client)
    # A row with USN -1 would never be sent to other devices.
    if collection.has_unsynced():
        return SanityAnswer(BAD, request.client, None)
    ours = _ours(collection.counts())
    # Count before a full sync is forced: the tally could be wrong.
    if ours != theirs:
        ours = _ours(collection.recount())
    return SanityAnswer(OK if ours == theirs else BAD, theirs, ours)


def agreed(request: SanityRequest) -> SanityAnswer:
    """The answer for equal counts."""
    counts = _comparable(request.client)
    return SanityAnswer(OK, counts, counts)


def describe(answer: SanityAnswer) -> str:
    """Why a check failed, with the counts of both sides."""
    if answer.server is None:
        return f"rows here are marked as not synced; the device has {_words(answer.client)}"
    return f"the device has {_words(answer.client)}; the server has {_words(answer.server)}"


def _words(counts: SanityCounts) -> str:
    return (
        f"{counts.cards} cards, {counts.notes} notes, {counts.revlog} reviews, {counts.notetypes} notetypes, "
        f"{counts.decks} decks, {counts.deck_options} presets"
    )


def is_settled_by_carried_counts(request: SanityRequest, collection: Collection) -> bool:
    """Whether the check can be answered without reading tables."""
    return not collection.maybe_unsynced and _ours(collection.counts()) == _comparable(request.client)


def _comparable(counts: SanityCounts) -> SanityCounts:
    return SanityCounts(
        (0, 0, 0),
        counts.cards,
        counts.notes,
        counts.revlog,
        0,
        counts.notetypes,
        counts.decks,
        counts.deck_options,
    )


def _ours(counts: tuple[int, ...]) -> SanityCounts:
    cards, notes, revlog, _graves, notetypes, decks, deck_options = counts
    return SanityCounts((0, 0, 0), cards, notes, revlog, 0, notetypes, decks, deck_options)
