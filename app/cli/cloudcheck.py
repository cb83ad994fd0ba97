"""Looks whether bucket, table and user pool are there; `ankisyncd` runs it before it starts its workers.

A process of its own, for the SDK must not be imported before gevent has patched the workers.
"""

from __future__ import annotations

import os

from app.cloud import find_faults
from app.config import Settings


def main() -> None:
    """Print a line for each fault."""
    for fault in find_faults(Settings.from_env(os.environ)):
        print(" ".join(fault.split()))


if __name__ == "__main__":
    main()
