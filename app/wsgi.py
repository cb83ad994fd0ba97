"""gunicorn's entry for those who start it themselves; `ankisyncd` does the same and more."""

from __future__ import annotations

import os

from app.config import Settings
from app.main import build

os.umask(0o077)  # what is made is for the owner alone
application = build(Settings.from_env(os.environ))
