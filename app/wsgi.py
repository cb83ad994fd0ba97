"""gunicorn's entry for those who start it themselves; `ankisyncd` does the same and more."""

from __future__ import annotations

import os

from app.config import Settings
from app.main import build

application = build(Settings.from_env(os.environ))
