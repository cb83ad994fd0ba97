"""What browsers and Anki clients say about themselves, in words that people know."""

from __future__ import annotations

import re
from typing import Final

# The first that is found counts: most browsers also name those that they descend from.
_BROWSERS: Final = (
    ("Edg", "Edge"), ("OPR/", "Opera"), ("SamsungBrowser/", "Samsung Internet"), ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"), ("CriOS/", "Chrome"), ("Chrome/", "Chrome"), ("Safari/", "Safari"),
)  # fmt: skip
_SYSTEMS: Final = (
    ("iPhone", "iPhone"), ("iPad", "iPad"), ("Android", "Android"), ("Windows", "Windows"),
    ("Mac OS X", "macOS"), ("CrOS", "ChromeOS"), ("Linux", "Linux"),
)  # fmt: skip
_PLATFORMS: Final = {
    "lin": "Linux", "linux": "Linux", "mac": "macOS", "macos": "macOS", "win": "Windows",
    "windows": "Windows", "freebsd": "FreeBSD",
}  # fmt: skip
_APPS: Final = {"android": "AnkiDroid", "ios": "AnkiMobile"}


def describe_browser(user_agent: str) -> str:
    """`Firefox, Linux` for a User-Agent header; its first word if nothing in it is known."""
    words = [
        next((name for mark, name in known if mark in user_agent), "") for known in (_BROWSERS, _SYSTEMS)
    ]
    return ", ".join(filter(None, words)) or user_agent.partition(" ")[0][:40]


def describe_client(client: str) -> str:
    """`Anki 26.09, Linux` for what a client sends of itself: version, build and platform.

    As it came, if it is not of one of the two forms: `26.09,2ad1d5fe,linux` and
    `anki,26.09 (2ad1d5fe),linux:debian`. Source: rslib/src/version.rs of ankitects/anki.
    """
    match = _SHORT(client) or _LONG(client)
    if match is None:
        return client
    version, platform = match["version"], match["platform"].lower()
    if app := _APPS.get(platform):
        return f"{app} {version}"
    return ", ".join(filter(None, (f"Anki {version}", _PLATFORMS.get(platform, match["platform"]))))


_SHORT: Final = re.compile(
    r"(?P<version>[0-9][0-9A-Za-z.]*),[0-9a-f]+,(?P<platform>[A-Za-z]*)(?::.*)?"
).fullmatch
_LONG: Final = re.compile(
    r"anki[a-z]*,(?P<version>[0-9][0-9A-Za-z.]*)(?: \([^)]*\))?,(?P<platform>[A-Za-z]*)(?::.*)?"
).fullmatch
