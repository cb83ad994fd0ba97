"""Looks whether bucket, table and user pool are there; `ankisyncd` runs it before it starts its workers.

A process of its own, for the SDK must not be imported before gevent has patched the workers.
"""

from __future__ import annotations

import os
import sys

from app.cloud import find_faults
from app.config import Settings


def main() -> None:
    """Print a line for each fault; on standard error for those that pass by themselves."""
    for finding in find_faults(Settings.from_env(os.environ)):
        print(" ".join(finding.text.split()), file=sys.stdout if finding.is_fatal else sys.stderr)


if __name__ == "__main__":
    main()
