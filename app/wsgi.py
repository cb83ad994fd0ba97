"""The WSGI application, for operators who start gunicorn themselves instead of `ankisyncd`."""

from __future__ import annotations

import os

from app.config import Settings
from app.main import build

os.umask(0o077)  # new files are readable by their owner only
application = build(Settings.from_env(os.environ))
