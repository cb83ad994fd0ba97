"""Writes the tables of inputs and outputs into README.md: `python3 terraform/docs.py`."""

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
    found = re.search(rf"^  {name} += (.*?)(?=^  \w|^  \}}$|^\n|\Z)", body, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def type_of(body: str) -> str:
    """The type on one line; an object as the names and types of its attributes."""
    if "type = object({" not in body:
        return argument(body, "type")
    (inside,) = re.findall(r"type = object\(\{\n(.*?)^  \}\)", body, re.MULTILINE | re.DOTALL)
    attributes = re.findall(r"^ +(\w+) += (.+)$", inside, re.MULTILINE)
    return "object({ " + ", ".join(f"{name} = {kind}" for name, kind in attributes) + " })"


def described(body: str) -> str:
    """The description, as it stands in a cell of a table."""
    return argument(body, "description").strip('"').replace('\\"', '"').replace("|", "\\|")


def tables() -> str:
    """Both tables."""
    lines = ["| input | what it is | type | default | required |", "| --- | --- | --- | --- | --- |"]
    for name, body in blocks("variables.tf"):
        default = argument(body, "default")
        shown = f"`{default}`" if default else ""
        required = "no" if default else "yes"
        lines.append(f"| `{name}` | {described(body)} | `{type_of(body)}` | {shown} | {required} |")
    lines += ["", "| output | what it is |", "| --- | --- |"]
    lines += [f"| `{name}` | {described(body)} |" for name, body in blocks("outputs.tf")]
    return "\n".join(lines) + "\n"


def with_tables(text: str) -> str:
    """The README with tables as they must be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{tables()}{END}{after}"


if __name__ == "__main__":
    readme = HERE / "README.md"
    text = readme.read_text()
    if "--check" in sys.argv:
        sys.exit(text != with_tables(text))
    readme.write_text(with_tables(text))
