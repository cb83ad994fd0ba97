"""The first page: the address for Anki with the steps for each client, and the way in and out."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import flask
import segno
from flask_babel import gettext, lazy_gettext, ngettext

from app.auth.authenticator import Authenticator
from app.auth.hostkeys import HostKeys
from app.errors import AuthError, LoginRefused, RateLimited
from app.web.browsers import describe_browser
from app.web.forms import SignInForm
from app.web.pages import Pages, done, keep_signed_in, link
from app.web.sessions import end_old_sessions
from app.web.visitor import Visitor, forget_cookie


def add_home(pages: Pages, authenticator: Authenticator, keys: HostKeys) -> None:
    """Register the pages."""
    pages.add_notices({"signed-out": lazy_gettext("You are signed out.")})

    @pages.page("/", is_public=True, menu=lazy_gettext("Start"))
    def home(visitor: Visitor) -> Any:
        return _show(visitor, None if visitor.is_signed_in else SignInForm(formdata=None))

    @pages.page("/sign-in", methods=("POST",), is_public=True)
    def sign_in(visitor: Visitor) -> Any:
        form = SignInForm()
        if not form.validate():
            return _show(visitor, form, gettext("Enter your user name and your password.")), 400
        request = flask.request
        try:
            key = authenticator.sign_in(
                form.username.data,
                form.password.data,
                pages.address_of(request.environ),
                describe_browser(request.headers.get("User-Agent", "")),
            )
        except RateLimited as exc:
            minutes = -(-exc.retry_after_s // 60)
            wait = ngettext(
                "Too many wrong passwords. Try again in a minute.",
                "Too many wrong passwords. Try again in %(num)d minutes.",
                minutes,
            )
            return _show(visitor, form, wait), 429
        except LoginRefused as exc:
            return _show(visitor, form, str(exc)), 403
        except AuthError:
            return _show(visitor, form, gettext("The user name or the password is wrong.")), 403
        if visitor.session is not None:
            keys.revoke(visitor.session.hash)
        session = authenticator.find_session(key)
        if session is not None:
            end_old_sessions(keys, session.user, pages.visitors)
        return keep_signed_in(flask.make_response(flask.redirect(link("home"), 303)), visitor, key)

    @pages.page("/sign-out", methods=("POST",))
    def sign_out(visitor: Visitor) -> Any:
        assert visitor.session is not None
        keys.revoke(visitor.session.hash)
        response = flask.make_response(done("home", "signed-out"))
        forget_cookie(response, visitor.place)
        return response


def _show(visitor: Visitor, form: SignInForm | None, fault: str = "") -> str:
    address = visitor.place.sync_address
    code = _code_of(address, gettext("The address as a QR code"))
    return flask.render_template("home.html", address=address, code=code, form=form, fault=fault)


@lru_cache(maxsize=32)
def _code_of(text: str, title: str) -> str:
    """A QR code as SVG. Kept, since making one takes 5 ms, and anybody may ask."""
    code: str = segno.make(text, error="m").svg_inline(
        scale=5, border=3, light="#fff", dark="#000", title=title
    )
    return code
