"""How lists look: a table for people, tab-separated lines with headings for pipes, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]
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
        click.echo("\t".join(map(title_of, columns)))
        for row in rows:
            click.echo("\t".join(text_of(column, row[column]) for column in columns))


def show_one(row: Row, *, as_json: bool) -> None:
    """Print one row, a line for each column; as JSON an object."""
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(row), indent=2).decode())
        return
    width = max(len(title_of(column)) for column in row)
    for column, value in row.items():
        click.echo(f"{title_of(column).ljust(width)}  {text_of(column, value)}")


def say(sentence: str, row: Row, *, as_json: bool) -> None:
    """Tell what was done: a sentence for people, an object for programs."""
    if as_json:
        show_one(row, as_json=True)
    else:
        click.echo(sentence)


def title_of(column: str) -> str:
    """What stands above a column."""
    return column.removesuffix("_ms").replace("_", " ")


def text_of(column: str, value: Any) -> str:
    """One cell, on one line and without anything that a terminal would obey."""
    if value is None:
        return "-"
    if column.endswith("_ms"):
        return datetime.fromtimestamp(int(value) / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(value))
