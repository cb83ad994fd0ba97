"""The versions of collection and media: what there is, how it differs from now, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import flask
import msgspec
from flask_babel import gettext, lazy_gettext

from app.auth.hostkeys import HostKeys, KeyRecord
from app.history import MediaRestored, Restorer, RestoreRefused
from app.web.browsers import describe_client
from app.web.files import FileGiver
from app.web.pages import Pages, done, link
from app.web.visitor import Visitor
from app.web.words import counted, difference, moment, size_in_words
from storage.database.history import RestorePoint, find_restore_point
from storage.database.origin import Kind, read_origin
from storage.errors import NotFound
from storage.types import DatabaseId, DatabaseKind, UserId

_ON_A_PAGE: Final = 50
_MOST_DECKS: Final = 300
_NAMES: Final = {DatabaseKind.COLLECTION: ("notes", "cards", "reviews"), DatabaseKind.MEDIA: ("files",)}
"""What `ChainEntry.counts` has, by kind; of media also the bytes."""


class Version(msgspec.Struct, frozen=True):
    """A version as the pages show it."""

    number: int
    time: str
    origin: str
    counts: tuple[str, ...]
    difference: str
    size: str
    is_current: bool
    has_cards: bool


class VersionList:
    """Describes the versions of one user's database."""

    def __init__(
        self, restorer: Restorer, keys: HostKeys, user: UserId, kind: DatabaseKind, now_ms: int
    ) -> None:
        self._points = restorer.list_restore_points(DatabaseId(user, kind))
        self._devices = {record.id: record for record in keys.list(user)}
        self._kind, self._now_ms = kind, now_ms

    def page(self, before: int | None) -> tuple[list[Version], int | None]:
        """Versions, newest first, and the number before which the next page begins."""
        chosen = [point for point in self._points if before is None or point.version < before]
        rest = chosen[-_ON_A_PAGE - 1 :] if len(chosen) > _ON_A_PAGE else chosen
        shown = rest[-_ON_A_PAGE:]
        versions = [self._described(point) for point in reversed(shown)]
        return versions, shown[0].version if len(rest) > len(shown) else None

    def find(self, number: int) -> Version:
        """One version. Raises: NotFound."""
        return self._described(find_restore_point(self._points, number))

    def _described(self, point: RestorePoint) -> Version:
        current = self._points[-1]
        entry, names = point.chain[-1], _NAMES[self._kind]
        then, now = entry.counts, current.chain[-1].counts
        return Version(
            point.version,
            moment(point.time_ms, self._now_ms),
            describe_origin(entry.commit_ids, self._devices),
            tuple(counted(name, number) for name, number in zip(names, then, strict=False)),
            difference(names, then, now) if then and now and point is not current else "",
            size_in_words(
                then[1] if self._kind is DatabaseKind.MEDIA and then else entry.page_size * entry.page_count
            ),
            point is current,
            self._kind is DatabaseKind.MEDIA or not then or then[1] > 0,
        )


_ORIGINS: Final = {
    Kind.RESTORE: lazy_gettext("an earlier version, brought back"),
    Kind.PAGE: lazy_gettext("uploaded on this page"),
    Kind.OPERATOR: lazy_gettext("by the operator"),
}


def describe_origin(commit_ids: Sequence[str], devices: Mapping[str, KeyRecord]) -> str:
    """Who or what made a version, in words; empty if that is not known."""
    origin = read_origin(commit_ids[-1]) if commit_ids else None
    if origin is None:
        return ""
    if origin.kind in _ORIGINS:
        return str(_ORIGINS[origin.kind])
    device = devices.get(origin.device)
    if device is not None:
        return device.name or describe_client(device.client)
    return str(gettext("a device that is logged out by now")) if origin.device else ""


def add_versions(  # noqa: C901 - registers views
    pages: Pages, restorer: Restorer, keys: HostKeys, giver: FileGiver, clock_ms: Callable[[], int]
) -> None:
    """Register the pages."""

    def list_of(visitor: Visitor, kind: DatabaseKind) -> VersionList:
        return VersionList(restorer, keys, visitor.user, kind, clock_ms())

    @pages.page("/versions", menu=lazy_gettext("Versions"))
    def versions(visitor: Visitor) -> Any:
        kind = _kind_of(flask.request.args)
        shown, before = list_of(visitor, kind).page(flask.request.args.get("before", type=int))
        return flask.render_template("versions.html", kind=kind.value, versions=shown, before=before)

    @pages.page("/version")
    def version(visitor: Visitor) -> Any:
        kind, number = _kind_of(flask.request.args), _number_of(flask.request.args)
        found = _found(lambda: list_of(visitor, kind).find(number))
        return flask.render_template("version.html", kind=kind.value, version=found)

    @pages.page("/version-decks")
    def version_decks(visitor: Visitor) -> Any:
        number = _number_of(flask.request.args)
        with giver.at_work(visitor.user):
            decks = _found(lambda: restorer.list_decks(visitor.user, number))
        described = [(name, counted("cards", cards)) for name, cards in decks[:_MOST_DECKS]]
        return flask.render_template(
            "version-decks.html", number=number, decks=described, more=len(decks) - len(described)
        )

    @pages.page("/version-file")
    def version_file(visitor: Visitor) -> Any:
        number = _number_of(flask.request.args)
        day = datetime.fromtimestamp(clock_ms() / 1000, UTC).strftime("%Y-%m-%d")

        def give() -> flask.Response:
            with (
                giver.at_work(visitor.user),
                restorer.exported(visitor.user, number, "collection.colpkg") as path,
            ):
                return giver.give(visitor.user, path, f"collection-version-{number}-{day}.colpkg")

        return _found(give)

    @pages.page("/restore", methods=("POST",))
    def restore(visitor: Visitor) -> Any:
        form = flask.request.form
        kind, number = _kind_of(form), _number_of(form)
        try:
            with giver.at_work(visitor.user):
                if kind is DatabaseKind.COLLECTION:
                    _found(lambda: restorer.restore_collection(visitor.user, number))
                    return flask.redirect(link("restored", number=number), 303)
                media = _found(lambda: restorer.restore_media(visitor.user, number, exact="exact" in form))
        except RestoreRefused:
            return done("versions", "current", kind=kind.value)
        return flask.redirect(link("media_restored", number=number, **_counts_of(media)), 303)

    @pages.page("/restored")
    def restored(visitor: Visitor) -> Any:
        shown, _ = list_of(visitor, DatabaseKind.COLLECTION).page(None)
        return flask.render_template(
            "restored.html", number=_number_of(flask.request.args), current=shown[0] if shown else None
        )

    @pages.page("/restored-media")
    def media_restored(visitor: Visitor) -> Any:
        del visitor
        args = flask.request.args
        numbers = {name: args.get(name, 0, type=int) for name in ("back", "removed", "lost")}
        return flask.render_template("restored-media.html", number=_number_of(args), **numbers)

    pages.add_notices({"current": lazy_gettext("That version is the current one already.")})


def _counts_of(media: MediaRestored) -> dict[str, int]:
    return {"back": media.back, "removed": media.removed, "lost": len(media.lost)}


def _kind_of(values: Mapping[str, str]) -> DatabaseKind:
    return DatabaseKind.MEDIA if values.get("kind") == DatabaseKind.MEDIA.value else DatabaseKind.COLLECTION


def _number_of(values: Mapping[str, str]) -> int:
    text = values.get("number", "")
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        flask.abort(404)
    return int(text)


def _found(work: Callable[[], Any]) -> Any:
    """What `work` gives; a version that is not kept (any more) is a page that is not there."""
    try:
        return work()
    except NotFound:
        flask.abort(404)
