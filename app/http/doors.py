"""The way past Flask: requests for the known methods go to the same views, without Flask's context.

Flask's dispatch costs more than the step of a sync that it leads to. All else is still its business:
other paths and HTTP methods, and everything about routes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask

from app.http.accesslog import entry_of
from app.http.errors import refusal_of
from app.http.front import View
from app.http.paths import canonical_path
from app.http.response import Answer

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
WsgiApp = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


def with_doors(app: Flask) -> WsgiApp:
    """The application, seeing canonical paths only; its views that need no context are called at once."""
    views = {
        rule.rule: view
        for rule in app.url_map.iter_rules()
        if isinstance(view := app.view_functions[rule.endpoint], View) and "POST" in (rule.methods or ())
    }
    through_flask: Any = app.wsgi_app

    def enter(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"] = canonical_path(environ["PATH_INFO"])
        view = views.get(path) if environ["REQUEST_METHOD"] == "POST" else None
        if view is None:
            blocks: Iterable[bytes] = through_flask(environ, start_response)
            return blocks
        answer = _answer(view, environ)
        start_response(answer.status_line, answer.all_headers())
        return (answer.body,) if isinstance(answer.body, bytes) else answer.body

    return enter


def _answer(view: View, environ: dict[str, Any]) -> Answer:
    try:
        return view.answer(environ)
    except Exception as exc:  # noqa: BLE001 - as Flask does; the table knows what is a bug
        return refusal_of(exc, entry_of(environ))
