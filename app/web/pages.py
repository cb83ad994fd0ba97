"""The blueprint of all pages: what each of them has in common is here, so that a view is a few lines.

To add a page, write a function that takes a `Visitor` and returns what Flask takes for a response, decorate
it with `Pages.page`, and call what registers it in `app.web.room`. Paths have one part and links are
relative, so that the pages work behind any prefix.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from functools import wraps
from importlib.resources import files
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import flask
from flask_babel import gettext, lazy_gettext
from werkzeug.exceptions import HTTPException

from app.http.accesslog import entry_of
from app.http.errors import refusal_of
from app.offload import ThreadPools
from app.version import VERSION
from app.web.forms import TOKEN_FIELD, PageForm
from app.web.visitor import Visitor, Visitors, set_cookie

NAME: Final = "pages"
View = Callable[[Visitor], Any]

FORM_BYTES: Final = 64 * 1024
"""What a form may have, unless its page says otherwise."""

_POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""No script runs, whatever somebody has written into a name; nothing is loaded from elsewhere."""

_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
}

_STYLE_SHEETS: Final = ("simple.min.css", "pages.css")

_REASONS: Final = {
    400: lazy_gettext("The server could not read what was sent."),
    403: lazy_gettext(
        "This was not sent from a page of this server, or the page was too old. "
        "Go back, reload and try again."
    ),
    404: lazy_gettext("There is no such page."),
    409: lazy_gettext("Something else changed at the same moment. Try again."),
    413: lazy_gettext("This is too large."),
    429: lazy_gettext("Too many attempts. Try again in a while."),
    503: lazy_gettext("The server cannot do this at the moment. Try again in a while."),
}


class MenuEntry(NamedTuple):
    """A page that the menu leads to."""

    page: str
    text: Any


class Pages:
    """The pages of one worker process."""

    def __init__(
        self, visitors: Visitors, pools: ThreadPools, address_of: Callable[[Mapping[str, Any]], str]
    ) -> None:
        """`address_of` finds the address of a client, as for syncs."""
        self.blueprint = flask.Blueprint(NAME, __name__, template_folder="templates")
        self.visitors, self.pools, self.address_of = visitors, pools, address_of
        self._menu: list[MenuEntry] = []
        self._notices: dict[str, Any] = {}
        self.blueprint.after_request(_add_headers)
        self.blueprint.register_error_handler(Exception, self._answer_error)
        self.blueprint.context_processor(self._context)
        for name in _STYLE_SHEETS:
            self._add_style_sheet(name)

    def page(
        self,
        path: str,
        *,
        methods: tuple[str, ...] = ("GET",),
        is_public: bool = False,
        menu: Any = None,
        limit_bytes: int = FORM_BYTES,
    ) -> Callable[[View], View]:
        """Let the decorated function answer requests for `path`, by its own name in links.

        Unless it `is_public`, only those who are signed in get there; others are led to the first page. With
        `menu` the menu leads to it. What is posted has been proven to come from a page of this visitor.
        """

        def register(view: View) -> View:
            @wraps(view)
            def answer() -> Any:
                visitor = self._enter(limit_bytes)
                if not (is_public or visitor.is_signed_in):
                    return flask.redirect(link("home"), 303)
                if flask.request.method == "POST":
                    _check_token(visitor)
                return view(visitor)

            self.blueprint.add_url_rule(path, view.__name__, answer, methods=list(methods))
            if menu is not None:
                self._menu.append(MenuEntry(view.__name__, menu))
            return view

        return register

    def add_notices(self, notices: Mapping[str, Any]) -> None:
        """Texts for `done`, by their names."""
        self._notices |= notices

    def _enter(self, limit_bytes: int) -> Visitor:
        request = flask.request
        entry = entry_of(request.environ)
        entry.address = self.address_of(request.environ)
        request.max_content_length = limit_bytes
        if request.method not in {"GET", "HEAD"}:
            _check_origin(request)
        visitor = flask.g.visitor = self.visitors.visitor_of(request)
        if visitor.is_signed_in:
            entry.user = visitor.user
            self.pools.serve(visitor.user)
        return visitor

    def _context(self) -> dict[str, Any]:
        """What every template knows."""
        visitor: Visitor | None = flask.g.get("visitor")
        return {
            "visitor": visitor,
            "menu": self._menu,
            "link": link,
            "button": PageForm() if visitor else None,
            "notice": self._notices.get(flask.request.args.get("done", "")),
            "server_version": VERSION,
        }

    def _answer_error(self, error: Exception) -> tuple[str, int]:
        """An error as a page; it is logged as all are."""
        if isinstance(error, HTTPException):
            status = error.code or 500
        else:
            status = refusal_of(error, entry_of(flask.request.environ)).status
        reason = _REASONS.get(status) or gettext(
            "Something went wrong here. The server has written down what."
        )
        return flask.render_template("error.html", status=status, reason=reason), status

    def _add_style_sheet(self, name: str) -> None:
        content = files("app.web").joinpath("static", name).read_bytes()

        def give() -> flask.Response:
            response = flask.Response(content, mimetype="text/css")
            response.cache_control.public, response.cache_control.max_age = True, 24 * 3600
            return response

        self.blueprint.add_url_rule(f"/{name}", name.replace(".", "-"), give)


def link(page: str, **values: Any) -> str:
    """The relative address of a page."""
    return "." + flask.url_for(f"{NAME}.{page}", **values)


def done(page: str, notice: str, **values: Any) -> Any:
    """Lead to a page after something was done, which it then says: a reload repeats nothing."""
    return flask.redirect(link(page, done=notice, **values), 303)


def keep_signed_in(response: flask.Response, visitor: Visitor, key: str) -> flask.Response:
    """The response, with which the browser gets the key of its session."""
    set_cookie(response, visitor.place, key)
    return response


def _check_origin(request: flask.Request) -> None:
    """Refuse what a browser says to come from elsewhere, before anything is read or looked up."""
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    origin = request.headers.get("Origin", "")
    is_other_host = origin not in {"", "null"} and urlsplit(origin).netloc.lower() != request.host.lower()
    if site not in {"same-origin", "none"} or ("Sec-Fetch-Site" not in request.headers and is_other_host):
        flask.abort(403)


def _check_token(visitor: Visitor) -> None:
    token = flask.request.form.get(TOKEN_FIELD, "")
    if not hmac.compare_digest(token.encode(), visitor.form_token.encode()):
        flask.abort(403)


def _add_headers(response: flask.Response) -> flask.Response:
    response.headers.update(_HEADERS)
    if "Cache-Control" not in response.headers:
        response.cache_control.no_store = True
    visitor: Visitor | None = flask.g.get("visitor")
    if visitor is not None and not visitor.is_signed_in and "Set-Cookie" not in response.headers:
        set_cookie(response, visitor.place, visitor.key)
    return response
