"""Who looks at a page: the cookie, the session behind it, and the token that forms carry.

The cookie holds a random key and nothing else. A session is a record in the key store that is found by the
hash of that key, so it can be ended from anywhere, and any worker finds it. Nothing in the cookie
could be changed to something else that is valid, so it needs no signature.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Final

import flask
import msgspec

from app.auth.hostkeys import KeyRecord
from app.web.place import Place, place_of
from storage.types import UserId

SESSION_DAYS: Final = 30
"""After so many days one has to sign in again."""

_NAME: Final = "ankisyncd"
_SECURE_NAME: Final = f"__Host-{_NAME}"
"""Browsers take a cookie of this name only over HTTPS, for this host alone and for all its paths."""
_STRANGER: Final = "visit."
"""Prefix of the key of a browser that is not signed in; no session is looked up for it."""
_KEY_BYTES: Final = 32
_DAY_S: Final = 24 * 3600
_LONGEST_KEY: Final = 256


class Visitor(msgspec.Struct, frozen=True):
    """The sender of the request at hand."""

    key: str
    """The cookie's value."""
    session: KeyRecord | None
    place: Place

    @property
    def is_signed_in(self) -> bool:
        """Whether a session stands behind the cookie."""
        return self.session is not None

    @property
    def user(self) -> UserId:
        """Whose session it is."""
        assert self.session is not None
        return self.session.user

    @property
    def name(self) -> str:
        """The name that the user signed in with."""
        assert self.session is not None
        return self.session.name

    @property
    def form_token(self) -> str:
        """What a form of this visitor carries; other sites can neither read nor guess it."""
        return hmac.digest(self.key.encode(), b"ankisyncd form", hashlib.sha256).hex()

    def __repr__(self) -> str:
        """Without the key."""
        return f"Visitor({self.session.user if self.session else 'nobody'!r})"


class Visitors:
    """Finds the visitor of a request, and sets the cookie of an answer."""

    def __init__(
        self,
        find_session: Callable[[str], KeyRecord | None],
        end_session: Callable[[bytes], object],
        clock_ms: Callable[[], int],
    ) -> None:
        self._find_session, self._end_session, self._clock_ms = find_session, end_session, clock_ms

    def visitor_of(self, request: flask.Request) -> Visitor:
        """The visitor; without a cookie one with a new key. Raises: ServiceUnavailable."""
        place = place_of(request.environ)
        key = request.cookies.get(_cookie_name(place), "")
        if not key.isascii() or not 0 < len(key) <= _LONGEST_KEY:
            return Visitor(_new_stranger(), None, place)
        session = None if key.startswith(_STRANGER) else self._find_session(key)
        if session is not None and self.is_over(session):
            self._end_session(session.hash)
            session = None
        return Visitor(key, session, place)

    def is_over(self, session: KeyRecord) -> bool:
        """Whether a session is too old."""
        return session.created_ms + SESSION_DAYS * _DAY_S * 1000 <= self._clock_ms()


def set_cookie(response: flask.Response, place: Place, key: str) -> None:
    """Let the browser keep `key`, out of reach of scripts and of other sites' forms."""
    response.set_cookie(
        _cookie_name(place),
        key,
        max_age=SESSION_DAYS * _DAY_S,
        secure=place.is_secure,
        httponly=True,
        samesite="Lax",
        path="/",
    )


def forget_cookie(response: flask.Response, place: Place) -> None:
    """Give the browser a key that is not signed in."""
    set_cookie(response, place, _new_stranger())


def _new_stranger() -> str:
    return _STRANGER + secrets.token_urlsafe(_KEY_BYTES)


def _cookie_name(place: Place) -> str:
    return _SECURE_NAME if place.is_secure else _NAME
