"""The Flask application: blueprints, path spellings and the table of errors put together."""

from __future__ import annotations

from collections.abc import Callable

import flask
from werkzeug.routing import MapAdapter

from app.http.collection import CollectionService, collection_blueprint
from app.http.doors import with_doors
from app.http.errors import answer_errors
from app.http.front import Front
from app.http.health import health_blueprint
from app.http.media import MediaService, media_blueprint


class _Application(flask.Flask):
    """Looks at the path alone: behind whichever name or proxy it stands, the routes are the same."""

    def create_url_adapter(self, request: flask.Request | None) -> MapAdapter | None:
        """What finds the route of a request."""
        if request is None:
            return None
        environ = request.environ
        return self.url_map.bind("", path_info=environ["PATH_INFO"], default_method=environ["REQUEST_METHOD"])


def make_application(
    front: Front,
    collections: CollectionService,
    media: MediaService,
    add_pages: Callable[[flask.Flask], None] | None = None,
) -> flask.Flask:
    """The application of one worker process; `add_pages` adds what people see in a browser."""
    app = _Application("ankisyncd", static_folder=None, template_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False
    app.register_blueprint(collection_blueprint(front, collections))
    app.register_blueprint(media_blueprint(front, media))
    app.register_blueprint(health_blueprint())
    if add_pages is not None:
        add_pages(app)
    answer_errors(app)
    app.wsgi_app = with_doors(app)  # type: ignore[method-assign, assignment]
    return app
