"""The commands that the documents name exist, with the options that they are given."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from app.cli.admin import cli

ROOT = Path(__file__).parents[3]
DOCUMENTS = (
    "README.md", "TROUBLESHOOTING.md", "SECURITY.md", "docker/README.md", "terraform/README.md",
    "app/auth/README.md",
)  # fmt: skip


def named(document: str) -> list[str]:
    """What stands after `ankisyncctl` in code, up to the end of the code or a comment.

    `user add|remove` names two commands.
    """
    text = (ROOT / document).read_text().replace("\\|", "|")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [f" {line}".partition(" #")[0] for block in blocks for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = [re.search(r"ankisyncctl ([a-z].*)", code) for code in lines + spans]
    texts = [match[1].strip() for match in found if match and "/" not in match[1].split()[0]]
    several = [re.fullmatch(r"([a-z]+) ([a-z]+(?:\|[a-z]+)+)(.*)", text) for text in texts]
    return [
        f"{match[1]} {word}{match[3]}" if match else text
        for text, match in zip(texts, several, strict=True)
        for word in (match[2].split("|") if match else [""])
    ]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_of_a_document_exist(document):
    for text in named(document):
        command, words = cli, text.split()
        while words and isinstance(command, click.Group):
            assert words[0] in command.commands, text
            command, words = command.commands[words[0]], words[1:]
        options = {option for param in command.params for option in param.opts}
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert {option for word in given for option in word.split("|")} <= options, text


def test_the_documents_name_commands():
    """Or nothing is found, and the test above cannot fail."""
    assert sum(len(named(document)) for document in DOCUMENTS) > 40
