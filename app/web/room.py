"""Puts the pages together; the one place that knows them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import flask
from flask_babel import Babel

from app.auth.authenticator import Authenticator
from app.auth.aws.users import UserList
from app.auth.hostkeys import HostKeys
from app.config import AddressSource
from app.deletions import Deletions
from app.history import Restorer
from app.http.request import address_finder
from app.offload import ThreadPools
from app.packages import Packages
from app.web.account import Account, add_account
from app.web.devices import add_devices
from app.web.files import FileGiver
from app.web.home import add_home
from app.web.pages import Pages
from app.web.versions import add_versions
from app.web.visitor import Visitors
from storage.database.store import DatabaseStore

_TRANSLATIONS: Final = Path(__file__).with_name("translations")
_LANGUAGES: Final = ("en",)


@dataclass(frozen=True, slots=True)
class Services:
    """What the pages show and change."""

    authenticator: Authenticator
    keys: HostKeys
    users: UserList
    databases: DatabaseStore
    restorer: Restorer
    packages: Packages
    deletions: Deletions
    pools: ThreadPools
    address_source: AddressSource
    clock_ms: Callable[[], int]
    nonce: Callable[[], str]
    scratch: Path


def make_pages(services: Services) -> Callable[[flask.Flask], None]:
    """What adds the pages to an application."""
    keys, clock_ms, authenticator = services.keys, services.clock_ms, services.authenticator
    visitors = Visitors(authenticator.find_session, keys.revoke, clock_ms)
    pages = Pages(visitors, services.pools, address_finder(services.address_source))
    giver = FileGiver(services.pools)
    add_home(pages, authenticator, keys)
    add_versions(pages, services.restorer, keys, giver, clock_ms)
    add_devices(pages, authenticator, keys, clock_ms)
    account = Account(
        services.databases,
        services.users,
        authenticator,
        keys,
        services.packages,
        services.deletions,
        clock_ms,
    )
    add_account(pages, account, giver, services.scratch, services.nonce)

    def add_to(app: flask.Flask) -> None:
        Babel(
            app,
            default_translation_directories=str(_TRANSLATIONS),
            locale_selector=lambda: flask.request.accept_languages.best_match(_LANGUAGES),
        )
        app.register_blueprint(pages.blueprint)

    return add_to
