"""What clients and browsers say of themselves becomes words that people know."""

from __future__ import annotations

import pytest

from app.web.browsers import describe_browser, describe_client


@pytest.mark.parametrize(
    ("client", "words"),
    [
        ("26.09.3,29bb700b,linux", "Anki 26.09.3, Linux"),
        ("25.02,ab,win", "Anki 25.02, Windows"),
        ("25.02.7,deadbeef,android", "AnkiDroid 25.02.7"),
        ("25.02,deadbeef,ios", "AnkiMobile 25.02"),
        ("anki,2.1.66 (70506aeb),mac:15.1", "Anki 2.1.66, macOS"),
        ("ankidesktop,2.1.49,lin:debian", "Anki 2.1.49, Linux"),
        ("something else", "something else"),
        ("", ""),
    ],
)
def test_a_client_is_described(client, words):
    assert describe_client(client) == words


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox, Linux"),
        (
            "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Chrome/140.0 Mobile Safari/537.36",
            "Chrome, Android",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1",
            "Safari, iPhone",
        ),
        ("Mozilla/5.0 (Windows NT 10.0; Win64) Chrome/140.0 Safari/537.36 Edg/140.0", "Edge, Windows"),
        ("curl/8.5.0", "curl/8.5.0"),
        ("", ""),
    ],
)
def test_a_browser_is_described(agent, words):
    assert describe_browser(agent) == words
