"""What a finished request tells: requests, syncs and logins, all from the fields of its log line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from app.http.accesslog import Entry
from app.ops import catalogue
from app.ops.meters import Meters

_COLLECTION: Final = frozenset(
    {"meta", "start", "applyGraves", "applyChanges", "chunk", "applyChunk", "sanityCheck2", "finish", "abort"}
)
_TRANSFERS: Final = frozenset({"upload", "download"})
_MEDIA: Final = frozenset({"begin", "mediaChanges", "uploadChanges", "downloadFiles", "mediaSanity"})
_KNOWN: Final = _COLLECTION | _TRANSFERS | _MEDIA | {"hostKey", "health", "ready", "metrics"}
"""Anything else is one method, `other`: clients must not make up new series."""

_LOGINS: Final = {200: "ok", 403: "wrong", 429: "limited", 503: "away"}
_BEGINNINGS: Final = {"meta": "collection", "begin": "media"}
_ENDS: Final = {
    "finish": ("collection", "done"),
    "abort": ("collection", "aborted"),
    "upload": ("upload", "done"),
    "download": ("download", "done"),
    "mediaSanity": ("media", "done"),
}
_QUIET_S: Final = 30.0
"""A sync without a request for so long does not count as running any more."""


class RequestMeter:
    """Called with the entry of each request that has ended, in the event loop."""

    def __init__(self, meters: Meters, monotonic_s: Callable[[], float]) -> None:
        self._meters, self._monotonic_s = meters, monotonic_s
        # Looking a metric up by its labels costs as much as recording it.
        self._of_request: dict[tuple[str, int], tuple[Any, Any]] = {}
        self._received = meters.child(catalogue.RECEIVED)
        self._sent = meters.child(catalogue.SENT)
        self._sync_seconds = meters.child(catalogue.SYNC_SECONDS)
        self._running = meters.child(catalogue.RUNNING)
        self._syncs: dict[str, tuple[float, float]] = {}
        """Of each running sync, by its session key: when it began, and its last request."""

    def __call__(self, entry: Entry) -> None:
        """Count one request."""
        method, status = entry.method, entry.status
        found = self._of_request.get((method, status))
        if found is None:
            found = self._find(method, status)
        requests, seconds = found
        requests.inc()
        seconds.observe(entry.ms / 1000)
        if entry.bytes_in:
            self._received.inc(entry.bytes_in)
        if entry.bytes_out:
            self._sent.inc(entry.bytes_out)
        if method in _COLLECTION:
            self._follow(entry)
        if status != 200 or entry.error:
            self._note_refusal(entry)
        elif method in _BEGINNINGS:
            self._meters.add(catalogue.SYNCS_BEGUN, _BEGINNINGS[method])
        elif method in _ENDS:
            self._meters.add(catalogue.SYNCS, *_ENDS[method], "")
        if method == "hostKey":
            self._meters.add(catalogue.LOGINS, _LOGINS.get(status, "failed"))

    def _find(self, method: str, status: int) -> tuple[Any, Any]:
        known = method if method in _KNOWN else "other"
        found = (
            self._meters.child(catalogue.REQUESTS, known, str(status)),
            self._meters.child(catalogue.REQUEST_SECONDS, known),
        )
        if known == method:
            self._of_request[method, status] = found
        return found

    def _note_refusal(self, entry: Entry) -> None:
        """A sync whose request is refused is over; so is one that is told so under status 200."""
        method, status = entry.method, entry.status
        if method in _COLLECTION:
            kind = "collection"
        elif method in _TRANSFERS:
            kind = method
        elif method in _MEDIA:
            kind = "media"
        else:
            return
        if status == 409:
            outcome = "conflict"
        elif method == "sanityCheck2" and status == 200:
            outcome = "sanity"
        else:
            outcome = "failed" if status in {500, 503} else "refused"
        self._meters.add(catalogue.SYNCS, kind, outcome, entry.error)

    def _follow(self, entry: Entry) -> None:
        """Keep count of the running syncs that began at this worker."""
        session, now_s = entry.session, self._monotonic_s()
        if entry.method == "start" and entry.status == 200:
            self._syncs[session] = now_s, now_s
            self._running.set(len(self._syncs))
            return
        begun_s, _ = self._syncs.get(session, (None, 0.0))
        if begun_s is None:
            return
        if entry.method in {"finish", "abort"} or entry.status != 200 or entry.error:
            del self._syncs[session]
            self._running.set(len(self._syncs))
            self._sync_seconds.observe(now_s - begun_s)
        else:
            self._syncs[session] = begun_s, now_s

    def forget_quiet(self) -> None:
        """Forget syncs that have ended elsewhere, or have just stopped."""
        least_s = self._monotonic_s() - _QUIET_S
        for session in [session for session, (_, last_s) in self._syncs.items() if last_s < least_s]:
            del self._syncs[session]
        self._running.set(len(self._syncs))
