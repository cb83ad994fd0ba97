"""The address to enter in Anki, behind whatever proxy."""

from __future__ import annotations

import pytest

from app.web.place import place_of

LOCAL = {"wsgi.url_scheme": "http", "SERVER_NAME": "192.0.2.1", "SERVER_PORT": "27702"}


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({"HTTP_HOST": "sync.example.com:8080"}, "http://sync.example.com:8080/"),
        ({"HTTP_HOST": "[2001:db8::1]:27702"}, "http://[2001:db8::1]:27702/"),
        ({"HTTP_HOST": "a.b", "HTTP_X_FORWARDED_PROTO": "https"}, "https://a.b/"),
        ({"HTTP_HOST": "a.b", "HTTP_X_FORWARDED_PROTO": "HTTPS, http"}, "https://a.b/"),
        ({"HTTP_HOST": "a.b", "HTTP_X_FORWARDED_PROTO": "javascript"}, "http://a.b/"),
        ({"HTTP_HOST": "a.b", "HTTP_X_FORWARDED_PREFIX": "/anki/"}, "http://a.b/anki/"),
        ({"HTTP_HOST": "a.b", "HTTP_X_FORWARDED_PREFIX": "//evil.test"}, "http://a.b/"),
        ({"HTTP_HOST": "<b>"}, "http://192.0.2.1:27702/"),
        ({}, "http://192.0.2.1:27702/"),
    ],
)
def test_the_address_is_as_the_browser_has_it(headers, address):
    assert place_of(LOCAL | headers).sync_address == address
