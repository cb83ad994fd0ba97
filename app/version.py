"""The version of this program, as the installed package has it (pyproject.toml)."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

VERSION: Final = version("ankisyncd")
HEADER: Final = "X-Ankisyncd-Version"
"""The header of `/health` that tells it; the body stays empty, as with the official server."""
