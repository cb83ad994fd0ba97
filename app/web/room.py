"""Puts the pages together; the one place that knows them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import flask
from flask_babel import Babel

from app.auth.authenticator import Authenticator
from app.auth.hostkeys import HostKeys
from app.config import AddressSource
from app.http.request import address_finder
from app.offload import ThreadPools
from app.web.home import add_home
from app.web.pages import Pages
from app.web.visitor import Visitors

_TRANSLATIONS: Final = Path(__file__).with_name("translations")
_LANGUAGES: Final = ("en",)


def make_pages(
    authenticator: Authenticator,
    keys: HostKeys,
    *,
    pools: ThreadPools,
    address_source: AddressSource,
    clock_ms: Callable[[], int],
) -> Callable[[flask.Flask], None]:
    """What adds the pages to an application."""
    visitors = Visitors(authenticator.find_session, keys.revoke, clock_ms)
    pages = Pages(visitors, pools, address_finder(address_source))
    add_home(pages, authenticator, keys)

    def add_to(app: flask.Flask) -> None:
        Babel(
            app,
            default_translation_directories=str(_TRANSLATIONS),
            locale_selector=lambda: flask.request.accept_languages.best_match(_LANGUAGES),
        )
        app.register_blueprint(pages.blueprint)

    return add_to
