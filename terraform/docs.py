"""Writes the tables of variables and outputs into README.md: `python3 terraform/docs.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
BEGIN, END = "<!-- tables: made by docs.py -->\n", "<!-- end of tables -->"


def blocks(name: str) -> list[tuple[str, str]]:
    """Name and body of every variable or output of a file, in the order of the file."""
    return re.findall(
        r'^(?:variable|output) "(\w+)" \{\n(.*?)^\}', (HERE / name).read_text(), re.MULTILINE | re.DOTALL
    )


def argument(body: str, name: str) -> str:
    """The text of an argument on one line or over several, or nothing."""
    found = re.search(rf"^  {name} += (.*?)(?=^  \w|^  \}}|^\n|\Z)", body, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def tables() -> str:
    """Both tables."""
    lines = ["| variable | what it is | default |", "| --- | --- | --- |"]
    for name, body in blocks("variables.tf"):
        described = argument(body, "description").strip('"').replace("|", "\\|")
        lines.append(f"| `{name}` | {described} | {_code(argument(body, 'default')) or 'must be given'} |")
    lines += ["", "| output | what it is |", "| --- | --- |"]
    for name, body in blocks("outputs.tf"):
        described = argument(body, "description").strip('"')
        lines.append(f"| `{name}` | {described} |")
    return "\n".join(lines) + "\n"


def with_tables(text: str) -> str:
    """The README with tables as they must be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{tables()}{END}{after}"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    readme = HERE / "README.md"
    text = readme.read_text()
    if "--check" in sys.argv:
        sys.exit(text != with_tables(text))
    readme.write_text(with_tables(text))
