"""How lists look: a table for people, tab-separated lines for pipes, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import click
import msgspec
from rich.console import Console
from rich.table import Table

Row = dict[str, str | int | None]
"""Column name -> value; a name that ends in `_ms` holds a time."""


def show(rows: Sequence[Row], columns: Sequence[str], *, as_json: bool) -> None:
    """Print `rows`; JSON gives times as numbers, the others as UTC."""
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
    elif sys.stdout.isatty():
        table = Table(*(title_of(column) for column in columns), box=None, header_style="bold")
        for row in rows:
            table.add_row(*(text_of(column, row[column]) for column in columns))
        Console(markup=False, highlight=False).print(table)
    else:
        for row in rows:
            click.echo("\t".join(text_of(column, row[column]) for column in columns))


def title_of(column: str) -> str:
    """What stands above a column."""
    return column.removesuffix("_ms").replace("_", " ")


def text_of(column: str, value: str | int | None) -> str:
    """One cell, on one line and without anything that a terminal would obey."""
    if value is None:
        return "-"
    if column.endswith("_ms"):
        return datetime.fromtimestamp(int(value) / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(value))
