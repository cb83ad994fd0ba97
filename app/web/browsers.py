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
_CLIENTS: Final = {"anki": "Anki", "ankidroid": "AnkiDroid", "ankimobile": "AnkiMobile"}
_PLATFORMS: Final = {
    "lin": "Linux", "linux": "Linux", "mac": "macOS", "macos": "macOS", "win": "Windows",
    "windows": "Windows", "android": "Android", "ios": "iOS",
}  # fmt: skip


def describe_browser(user_agent: str) -> str:
    """`Firefox, Linux` for a User-Agent header; its first word if nothing in it is known."""
    words = [
        next((name for mark, name in known if mark in user_agent), "") for known in (_BROWSERS, _SYSTEMS)
    ]
    return ", ".join(filter(None, words)) or user_agent.partition(" ")[0][:40]


def describe_client(client: str) -> str:
    """`Anki 26.09, Linux` for what a client sends of itself, like `anki,26.09 (2ad1d5fe),linux:debian`.

    As it came, if it is not of this form.
    Source: rslib/src/version.rs of ankitects/anki (sync_client_version).
    """
    match = re.fullmatch(r"([A-Za-z]+),([^,(]*?)\s*(?:\([^)]*\))?,([A-Za-z]*)(?::.*)?", client)
    if match is None:
        return client
    name, version, platform = match.groups()
    name = _CLIENTS.get(name.lower(), name)
    system = "" if name == "AnkiDroid" else _PLATFORMS.get(platform.lower(), platform)
    return ", ".join(filter(None, (f"{name} {version}".strip(), system)))
