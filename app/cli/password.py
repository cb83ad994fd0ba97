"""How commands are given a password: from the terminal or from standard input, never as an argument."""

from __future__ import annotations

import sys

import click

password_stdin = click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")


def read_password(*, from_stdin: bool, is_new: bool = True) -> str:
    """From the terminal, a new one twice; or the first line of standard input."""
    if from_stdin:
        try:
            return sys.stdin.readline().removeprefix("\ufeff").rstrip("\r\n")
        except UnicodeDecodeError:
            raise click.UsageError("the password is not UTF-8") from None
    answer: str = click.prompt("Password", hide_input=True, confirmation_prompt=is_new)
    return answer
