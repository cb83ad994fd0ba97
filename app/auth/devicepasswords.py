"""Generated passwords, one for each device: made on the user's own page, taken by hostKey.

They are the way in for people with a second factor, which clients cannot ask for.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

from app.auth.attempts import counted_name

_LETTERS: Final = "23456789abcdefghijkmnpqrstuvwxyz"
"""32 letters and digits, without those that are taken for each other: 5 bits each."""
_LENGTH: Final = 20
_GROUP: Final = 4
_FORM = re.compile(f"[{_LETTERS}]{{{_LENGTH}}}").fullmatch


def new_device_password() -> str:
    """100 random bits, like `k3sz-w8qv-...`."""
    letters = "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
    return "-".join(letters[at : at + _GROUP] for at in range(0, _LENGTH, _GROUP))


def key_of(username: str, password: str) -> str | None:
    """The key that a generated password is kept under; None if the text does not have its form.

    The name is a part of it: it is taken for the user who made it alone. People type it from a screen, so
    capitals, blanks and hyphens do not count.
    """
    letters = re.sub(r"[\s-]", "", password).lower()
    return f"{counted_name(username).decode()}\0{letters}" if _FORM(letters) else None
