"""Shows how far long work is: a bar on the terminal, and nothing if the output is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def shown(items: Iterable[T], count: int, what: str) -> Iterator[T]:
    """Give the items on. The bar is on standard error, so that answers can go into a pipe."""
    if not sys.stderr.isatty():
        yield from items
        return
    yield from track(items, what, count, console=Console(stderr=True), transient=True)
