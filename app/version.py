"""The version of this program, from the installed package (pyproject.toml)."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

VERSION: Final = version("ankisyncd")
HEADER: Final = "X-Ankisyncd-Version"
"""The header of `/health` with the version; the body is empty, as the official server's."""
