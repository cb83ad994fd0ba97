"""Which method a request is for. The table of methods is looked at first; all else is Flask's.

Flask's own dispatch costs more than most steps of a sync, so it answers only /health, unknown methods and
paths, and HTTP methods that are not allowed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flask
from werkzeug.routing import MapAdapter

from app.errors import UnknownMethod
from app.http.accesslog import entry_of
from app.http.collection import CollectionService, collection_methods
from app.http.errors import answer_errors, refusal_of
from app.http.media import MediaService, media_methods
from app.http.ops import Look, add_ready
from app.http.paths import canonical_path
from app.http.pipeline import Method, Pipeline
from app.http.response import Answer, StartResponse, WsgiApp, as_response
from app.version import HEADER, VERSION


class Dispatcher:
    """The WSGI application of a worker process."""

    def __init__(self, methods: Iterable[Method], pipeline: Pipeline, otherwise: WsgiApp) -> None:
        self._methods: Mapping[tuple[str, str], Method] = {
            (verb, method.path): method for method in methods for verb in method.verbs
        }
        self._pipeline, self._otherwise = pipeline, otherwise

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """As WSGI has it."""
        path = environ["PATH_INFO"] = canonical_path(environ["PATH_INFO"])
        method = self._methods.get((environ["REQUEST_METHOD"], path))
        if method is None:
            return self._otherwise(environ, start_response)
        try:
            answer = self._pipeline.answer(method, environ)
        except Exception as exc:  # noqa: BLE001 - as Flask does; the table of errors knows what is a bug
            answer = refusal_of(exc, entry_of(environ))
        start_response(answer.status_line, answer.all_headers())
        return (answer.body,) if isinstance(answer.body, bytes) else answer.body


class _Application(flask.Flask):
    """Looks at the path alone: behind whichever name or proxy it stands, the routes are the same."""

    def create_url_adapter(self, request: flask.Request | None) -> MapAdapter | None:
        """What finds the route of a request."""
        if request is None:
            return None
        environ = request.environ
        return self.url_map.bind("", path_info=environ["PATH_INFO"], default_method=environ["REQUEST_METHOD"])


AddPages = Callable[[flask.Flask], None]


def make_application(
    pipeline: Pipeline,
    collections: CollectionService,
    media: MediaService,
    look: Look | None = None,
    add_pages: AddPages | None = None,
) -> flask.Flask:
    """The application of one worker process: Flask, with the dispatcher in front of it.

    `look` tells what is wrong with the services that are needed; without it there is no /ready. `add_pages`
    adds what people see in a browser.
    """
    app = _Application("ankisyncd", static_folder=None, template_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False
    methods = [*collection_methods(pipeline, collections), *media_methods(pipeline, media)]
    _refuse_unknown_methods(app, methods)
    add_health(app)
    if look is not None:
        add_ready(app, look)
    if add_pages is not None:
        add_pages(app)
    answer_errors(app)
    through_flask: Any = app.wsgi_app
    app.wsgi_app = Dispatcher(methods, pipeline, through_flask)  # type: ignore[method-assign]
    return app


def _refuse_unknown_methods(app: flask.Flask, methods: Sequence[Method]) -> None:
    """An unknown method is 400, as the official server has it, and not 404."""

    def refuse(prefix: str, name: str) -> flask.Response:  # noqa: ARG001 - named so by the route
        known = [f"`{method.name}`" for method in methods if method.prefix == prefix]
        raise UnknownMethod(f"unknown method, expected one of {', '.join(known)}")

    app.add_url_rule("/<any(sync, msync):prefix>/<name>", view_func=refuse, methods=["POST"])
    for method in methods:
        # Not called, as the dispatcher comes first: Flask only needs to know what a path allows, for its 405.
        view = functools.partial(refuse, method.prefix, method.name)
        app.add_url_rule(method.path, method.path, view, methods=method.verbs)


def add_health(app: flask.Flask) -> None:
    """GET /health: this process takes requests. Asks no backend, so an outage elsewhere stops no worker."""

    def health() -> flask.Response:
        entry_of(flask.request.environ).method = "health"
        return as_response(Answer(headers=((HEADER, VERSION),)))

    app.add_url_rule("/health", view_func=health, methods=["GET"])
