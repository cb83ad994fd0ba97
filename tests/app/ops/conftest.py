"""prometheus-client reads its folder when it is imported, which these tests are the first to do."""

from __future__ import annotations

import os
import tempfile

import pytest

_FOLDER = tempfile.TemporaryDirectory(prefix="ankisyncd-metrics-")
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _FOLDER.name

from pathlib import Path  # noqa: E402

from app.ops.assembly import Instruments  # noqa: E402 - after the folder is named
from storage.types import run_inline  # noqa: E402


@pytest.fixture
def instruments() -> Instruments:
    """Of this process; what other tests have counted is in them too."""
    return Instruments(Path(_FOLDER.name), run_inline)
