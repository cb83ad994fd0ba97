"""`ankisyncctl` as an administrator uses it, beside a server that goes on running."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from app.cli.admin import cli
from app.cli.examples import EXAMPLES
from app.cli.output import text_of
from app.config import Settings
from app.errors import AuthError
from app.main import build_accounts
from storage.types import run_inline


class Admin:
    def __init__(self, root) -> None:
        self.env = {"ANKISYNCD_DATA_ROOT": str(root)}

    def run(self, *arguments: str, stdin: str = "", code: int = 0):
        result = CliRunner().invoke(cli, arguments, input=stdin, env=self.env)
        assert result.exit_code == code, result.output
        return result

    def json(self, *arguments: str):
        return json.loads(self.run(*arguments, "--json").stdout)

    def server(self):
        settings = Settings.from_env(self.env)
        return build_accounts(
            settings, None, offload=run_inline, clock_ms=lambda: time.time_ns() // 1_000_000
        )


@pytest.fixture
def admin(tmp_path):
    return Admin(tmp_path)


def test_a_user_made_while_the_server_runs_can_log_in(admin):
    server = admin.server()
    assert "Added alice" in admin.run("user", "add", "alice", "--password-stdin", stdin="secret\n").stdout
    key = server.authenticator.login("alice", "secret", "192.0.2.1")
    assert server.authenticator.authenticate(key) == admin.json("user", "list")[0]["id"]


def test_the_password_is_asked_for_twice_and_not_shown(admin):
    result = admin.run("user", "add", "alice", stdin="secret\nsecret\n")
    assert "secret" not in result.output
    assert admin.server().authenticator.login("alice", "secret", "192.0.2.1")


def test_passwords_that_differ_make_no_user(admin):
    admin.run("user", "add", "alice", stdin="one\nother\n", code=1)
    assert admin.json("user", "list") == []


def test_a_password_may_contain_spaces_at_its_ends(admin):
    admin.run("user", "add", "alice", "--password-stdin", stdin=" secret \r\n")
    assert admin.server().authenticator.login("alice", " secret ", "192.0.2.1")


def test_a_hash_that_it_makes_is_a_password_of_the_environment(admin):
    made = admin.run("user", "hash", "--password-stdin", stdin="it's $1\n").stdout.strip()
    admin.env |= {"SYNC_USER1": f"ann:{made}", "PASSWORDS_HASHED": "1"}
    assert admin.server().authenticator.login("ann", "it's $1", "192.0.2.1")


def test_passwd_ends_the_keys_of_a_running_server(admin):
    admin.run("user", "add", "alice", "--password-stdin", stdin="old")
    server = admin.server()
    key = server.authenticator.login("alice", "old", "192.0.2.1")
    admin.run("user", "passwd", "alice", "--password-stdin", stdin="new")
    with pytest.raises(AuthError):
        server.authenticator.authenticate(key)
    assert server.authenticator.login("alice", "new", "192.0.2.1")


def test_remove_asks_and_says_where_the_data_is(admin):
    admin.run("user", "add", "alice", "--password-stdin", stdin="x")
    (listed,) = admin.json("user", "list")
    admin.run("user", "remove", "alice", stdin="n\n", code=1)
    assert admin.json("user", "list") == [listed]
    assert listed["id"] in admin.run("user", "remove", "alice", stdin="y\n").stdout
    assert admin.json("user", "list") == []
    admin.run("user", "add", "anna", "--id", listed["id"], "--password-stdin", stdin="x")
    assert admin.json("user", "list")[0]["id"] == listed["id"]


def test_an_environment_user_moves_to_the_list(admin):
    admin.env["SYNC_USER1"] = "bob:b"
    (before,) = admin.json("user", "list")
    assert before["source"] == "environment"
    admin.run("user", "add", "bob", "--password-stdin", "--from-environment", stdin="new")
    result = admin.run("user", "list", "--json")
    assert json.loads(result.stdout)[0] | {"source": "environment"} == before | {
        name: json.loads(result.stdout)[0][name] for name in ("created_ms", "changed_ms")
    }
    assert "bob is a SYNC_USERn too" in result.stderr


def test_keys_are_listed_without_the_keys_and_revoked_by_id(admin):
    admin.run("user", "add", "alice", "--password-stdin", stdin="x")
    server = admin.server()
    first = server.authenticator.login("alice", "x", "192.0.2.1", "anki,26.9")
    second = server.authenticator.login("alice", "x", "192.0.2.1", "ankidroid")
    listed = admin.json("key", "list", "alice")
    assert [(row["user"], row["client"]) for row in listed] == [
        ("alice", "anki,26.9"),
        ("alice", "ankidroid"),
    ]
    output = admin.run("key", "list").stdout
    assert first not in output
    assert second not in output
    admin.run("key", "revoke", listed[0]["id"])
    with pytest.raises(AuthError):
        server.authenticator.authenticate(first)
    assert server.authenticator.authenticate(second)


def test_all_keys_of_a_user_are_revoked_at_once(admin):
    for name in ("alice", "bob"):
        admin.run("user", "add", name, "--password-stdin", stdin="x")
    server = admin.server()
    keys = [server.authenticator.login("alice", "x", "192.0.2.1") for _ in range(2)]
    bobs = server.authenticator.login("bob", "x", "192.0.2.1")
    assert "Revoked 2 keys" in admin.run("key", "revoke", "--user", "alice").stdout
    for key in keys:
        with pytest.raises(AuthError):
            server.authenticator.authenticate(key)
    assert server.authenticator.authenticate(bobs)


def test_lists_in_a_pipe_are_tab_separated_below_headings(admin):
    admin.run("user", "add", "alice", "--password-stdin", stdin="x")
    titles, line = admin.run("user", "list").stdout.splitlines()
    assert titles == "name\tid\tsource\tkeys\tcreated\tchanged"
    fields = line.split("\t")
    assert fields[0] == "alice"
    assert re.fullmatch(r"u[0-9a-f]{24}", fields[1])
    assert fields[2:4] == ["list", "0"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", fields[4])


def test_what_a_client_says_about_itself_cannot_command_the_terminal():
    assert text_of("client", "anki\x1b[2J\n\u202e") == "anki\ufffd[2J\ufffd\ufffd"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["user", "passwd", "nobody", "--password-stdin"], 1, "no user 'nobody'"),
        (["user", "remove", "nobody", "--yes"], 1, "no user 'nobody'"),
        (["key", "list", "nobody"], 1, "no user 'nobody'"),
        (["key", "revoke", "0123456789ab"], 1, "no keys have the id"),
        (["key", "revoke"], 2, "either KEY_ID or --user"),
        (["user", "add", "a\nb", "--password-stdin"], 1, "control characters"),
        (["user", "add", "x", "--id", "y", "--from-environment"], 2, "exclude each other"),
        (["user", "add"], 2, "NAME"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line_and_an_exit_code(admin, arguments, code, message):
    result = admin.run(*arguments, stdin="x", code=code)
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_wrong_settings_are_named_with_exit_code_2(admin):
    admin.env["ANKISYNCD_PORT"] = "many"
    admin.env["SYNC_USER1"] = "no-colon"
    result = admin.run("user", "list", code=2)
    assert "ANKISYNCD_PORT" in result.stderr
    assert "SYNC_USER1" in result.stderr


def test_an_unusable_hash_is_named_with_exit_code_2(admin):
    admin.env |= {"SYNC_USER1": "bob:not-a-hash-but-a-password", "PASSWORDS_HASHED": "1"}
    result = admin.run("user", "list", code=2)
    assert "'bob'" in result.stderr
    assert "not-a-hash-but-a-password" not in result.output


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another")
def test_root_makes_no_files_in_the_folder_of_the_servers_user(admin, tmp_path):
    folder = tmp_path / "of-another"
    folder.mkdir()
    os.chown(folder, 54321, 54321)
    admin.env = admin.env | {"ANKISYNCD_DATA_ROOT": str(folder)}
    result = admin.run("user", "list", code=1)
    assert "belongs to uid 54321: run this as that user" in result.output
    assert list(folder.iterdir()) == []


def test_it_says_where_a_user_was_added(admin):
    result = admin.run("user", "add", "joe", "--password-stdin", stdin="pw\n")
    assert admin.env["ANKISYNCD_DATA_ROOT"] in result.output


def test_a_password_that_is_not_utf_8_is_one_clear_line(admin):
    result = CliRunner().invoke(
        cli, ["user", "add", "joe", "--password-stdin"], input=b"\xff\n", env=admin.env
    )
    assert result.exit_code == 2
    assert "not UTF-8" in result.output


def commands(group=cli, path=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name))


@pytest.mark.parametrize("words", sorted(EXAMPLES))
def test_help_shows_examples_that_are_commands(admin, words):
    assert words in set(commands())
    shown = admin.run(*words.split(), "--help").stdout
    for example in EXAMPLES[words]:
        assert f"ankisyncctl {example}" in shown
        given = shlex.split(example.split(" > ")[0].split(" < ")[0])[len(words.split()) :]
        command = functools.reduce(lambda group, word: group.commands[word], words.split(), cli)
        paths = {param.name for param in command.params if isinstance(param.type, click.Path)}
        with command.make_context(words, list(given), resilient_parsing=True) as context:
            assert paths or context.args == []


def test_a_shell_completes_commands():
    run = functools.partial(
        subprocess.run, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    script = run([sys.executable, "-m", "app.cli", "completion", "zsh"]).stdout
    assert "_ANKISYNCCTL_COMPLETE=zsh_complete" in script
    asked = {"_ANKISYNCCTL_COMPLETE": "bash_complete", "COMP_WORDS": "ankisyncctl user pu", "COMP_CWORD": "2"}
    found = run([sys.executable, "-m", "app.cli"], env=os.environ | asked).stdout
    assert found.split() == ["plain,purge"]


def test_every_command_that_answers_has_json():
    """But for those whose answer is a file, or a script for a shell, and those that ask for more words."""
    answers = sorted(set(commands()) - {"history export", "completion", "init"})
    for words in answers:
        command = functools.reduce(lambda group, word: group.commands[word], words.split(), cli)
        assert any("--json" in param.opts for param in command.params), words


def test_what_was_done_is_told_as_json(admin):
    added = json.loads(admin.run("user", "add", "alice", "--password-stdin", "--json", stdin="x").stdout)
    assert added["name"] == "alice"
    changed = admin.run("user", "passwd", "alice", "--password-stdin", "--json", stdin="y").stdout
    assert json.loads(changed)["id"] == added["id"]
    assert admin.json("key", "revoke", "--user", "alice") == {"user": added["id"], "revoked": 0}
    assert admin.json("maintain")["databases"] == 0
    assert admin.json("user", "remove", "alice", "--yes")["data_deleted"] is False
