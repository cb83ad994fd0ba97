"""`ankisyncctl`: users, host keys, history and maintenance of the store; works beside a running server.

Passwords are not taken as arguments: other users of the machine could read them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import click

from app.auth.hostkeys import KeyRecord
from app.auth.local.environment import environment_id
from app.auth.local.users import ListedUser
from app.auth.passwords import Passwords
from app.cli import checking, people, store
from app.cli.audit import Change, note
from app.cli.backup import backup
from app.cli.context import Admin
from app.cli.examples import PROGRAM, add_examples, completion
from app.cli.history import history
from app.cli.importing import import_official
from app.cli.init import init
from app.cli.maintenance import maintenance
from app.cli.media import media
from app.cli.output import Row, say, show
from app.cli.password import password_stdin, read_password
from app.cli.quotas import quota
from app.cli.rebuild import rebuild_heads
from app.cli.sessions import session
from app.cli.syncs import syncs
from app.config import Settings, SettingsError
from app.errors import AppError, ServiceUnavailable
from app.version import VERSION
from storage.errors import StorageError, Unavailable
from storage.types import UserId, run_inline

_USER_COLUMNS = ("name", "id", "source", "keys", "created_ms", "changed_ms")
_KEY_COLUMNS = ("id", "user", "kind", "name", "client", "created_ms", "used_ms")
_WITHOUT_SETTINGS = frozenset({"completion", "config"})
"""Commands that must work with settings that are wrong."""


class ServiceAway(click.ClickException):
    """Something outside does not answer; the same command may succeed later."""

    exit_code = 3


class AdminGroup(click.Group):
    """Turns errors that are raised on purpose into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Exit code 1: it could not be done; 2: asked for wrongly, or wrong settings; 3: try it later."""
        try:
            return super().invoke(ctx)
        except SettingsError as exc:
            raise click.UsageError(str(exc)) from exc
        except (ServiceUnavailable, Unavailable) as exc:
            raise ServiceAway(str(exc)) from exc
        except (AppError, StorageError) as exc:
            raise click.ClickException(str(exc)) from exc


@click.group(cls=AdminGroup)
@click.version_option(VERSION, message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Look after an ankisyncd server. It reads the same settings as the server.

    Exit codes: 0, done; 1, it could not be done, or something was found to be wrong; 2, asked for wrongly,
    or wrong settings; 3, a service does not answer, try it later.
    """
    if ctx.invoked_subcommand not in _WITHOUT_SETTINGS:
        ctx.obj = Admin(Settings.from_env(os.environ))


@cli.group()
def user() -> None:
    """Who may log in."""


@user.command("add", cls=Change)
@click.argument("name")
@password_stdin
@click.option("--from-environment", is_flag=True, help="Take over the data of the SYNC_USERn of that name.")
@click.option("--id", "user_id", help="Take over the data that a removed user left under this id.")
@store.as_json
@click.pass_obj
def add_user(  # noqa: PLR0913 - options
    admin: Admin,
    name: str,
    user_id: str | None,
    *,
    password_stdin: bool,
    from_environment: bool,
    as_json: bool,
) -> None:
    """Make the user NAME; no restart is needed."""
    if name != name.encode("utf-8", "replace").decode():
        raise click.UsageError(f"{name!r} is not UTF-8")
    if from_environment and user_id:
        raise click.UsageError("--from-environment and --id exclude each other")
    if from_environment:
        user_id = environment_id(name)
    added = admin.users.add(
        name, read_password(from_stdin=password_stdin), user=None if user_id is None else UserId(user_id)
    )
    note(user=added.id)
    said = f"Added {added.name} ({added.id}) to the users of {admin.settings.place}."
    say(said, {"name": added.name, "id": added.id}, as_json=as_json)


@user.command("passwd", cls=Change)
@click.argument("name")
@password_stdin
@store.as_json
@click.pass_obj
def change_password(admin: Admin, name: str, *, password_stdin: bool, as_json: bool) -> None:
    """Give NAME another password; all devices have to log in again."""
    user_id = admin.find_user(name).id
    note(user=user_id)
    admin.users.change_password(name, read_password(from_stdin=password_stdin))
    said = f"Changed the password of {name}; its host keys are revoked."
    say(said, {"name": name, "id": user_id}, as_json=as_json)


@user.command("hash")
@password_stdin
@store.as_json
def hash_password(*, password_stdin: bool, as_json: bool) -> None:
    """Print the hash of a password, for SYNC_USERn with PASSWORDS_HASHED."""
    made = Passwords(run_inline).hash(read_password(from_stdin=password_stdin))
    say(made, {"hash": made}, as_json=as_json)


@user.command("list")
@store.as_json
@click.pass_obj
def list_users(admin: Admin, *, as_json: bool) -> None:
    """All users, those of SYNC_USERn too."""
    keys: dict[UserId, int] = {}
    for record in admin.keys.list():
        keys[record.user] = keys.get(record.user, 0) + 1
    rows = [user_row(listed, keys.get(listed.id, 0)) for listed in admin.users.list()]
    show(rows, _USER_COLUMNS, as_json=as_json)
    for name in admin.users.shadowed():
        click.echo(f"{name} is a SYNC_USERn too; the password there does nothing.", err=True)


@user.command("remove", cls=Change)
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--delete-data", is_flag=True, help="Also delete collection and media, with all history.")
@store.as_json
@click.pass_obj
def remove_user(admin: Admin, name: str, *, yes: bool, delete_data: bool, as_json: bool) -> None:
    """Remove NAME and its host keys; without --delete-data the data stays under the user's id."""
    found = admin.find_user(name)
    note(user=found.id)
    if not yes:
        what = "delete all its data for good" if delete_data else "log out all its devices"
        click.confirm(f"Remove {found.name} and {what}?", abort=True)
    admin.users.remove(name)
    row: Row = {"name": found.name, "id": found.id, "data_deleted": delete_data}
    if not delete_data:
        said = f"Removed {found.name}. Its data is kept under the id {found.id}."
        say(said, row, as_json=as_json)
        return
    with admin.stores() as stores:
        store.erase_data(stores, found.id)
    say(f"Removed {found.name} and deleted its data.", row, as_json=as_json)


for command in (store.erase, checking.check_login, people.export, people.purge, people.reset):
    user.add_command(command)
for command in (
    store.status,
    store.doctor,
    store.maintain,
    syncs,
    session,
    quota,
    maintenance,
    history,
    import_official,
    init,
    rebuild_heads,
    backup,
):
    cli.add_command(command)
for command in (checking.check, checking.config, media, completion):
    cli.add_command(command)


@cli.group()
def key() -> None:
    """Host keys: one for each device that has logged in."""


@key.command("list")
@click.argument("name", required=False)
@store.as_json
@click.pass_obj
def list_keys(admin: Admin, name: str | None, *, as_json: bool) -> None:
    """The keys of the user NAME, or of all."""
    chosen = admin.find_user(name).id if name else None
    names = admin.names()
    show([key_row(record, names) for record in admin.keys.list(chosen)], _KEY_COLUMNS, as_json=as_json)


@key.command("revoke", cls=Change)
@click.argument("key_id", required=False)
@click.option("--user", "name", help="All keys of this user.")
@store.as_json
@click.pass_obj
def revoke_keys(admin: Admin, key_id: str | None, name: str | None, *, as_json: bool) -> None:
    """Revoke the key KEY_ID, as `key list` shows it; the device has to log in again."""
    if (key_id is None) == (name is None):
        raise click.UsageError("give either KEY_ID or --user")
    if name is not None:
        user_id = admin.find_user(name).id
        count = admin.keys.revoke_all(user_id)
        note(user=user_id, keys=count)
        say(f"Revoked {count} keys of {name}.", {"user": user_id, "revoked": count}, as_json=as_json)
        return
    records = list(keys_named(admin, key_id or ""))
    if len(records) != 1:
        raise click.ClickException(f"{len(records) or 'no'} keys have the id {key_id!r}")
    admin.keys.revoke(records[0].hash)
    note(user=records[0].user)
    said = f"Revoked the key {key_id}."
    say(said, {"user": records[0].user, "revoked": 1}, as_json=as_json)


add_examples(cli)


def keys_named(admin: Admin, key_id: str) -> Iterator[KeyRecord]:
    """The keys with this id: one, unless ids collide."""
    return (record for record in admin.keys.list() if record.id == key_id)


def user_row(listed: ListedUser, keys: int) -> Row:
    """One line of `user list`."""
    return {
        "name": listed.name,
        "id": listed.id,
        "source": listed.source,
        "keys": keys,
        "created_ms": listed.created_ms,
        "changed_ms": listed.changed_ms,
    }


def key_row(record: KeyRecord, names: dict[UserId, str]) -> Row:
    """One line of `key list`; a user that is gone is shown by its id."""
    return {
        "id": record.id,
        "user": names.get(record.user, record.user),
        "kind": record.kind.value,
        "name": record.name,
        "client": record.client,
        "created_ms": record.created_ms,
        "used_ms": record.used_ms,
    }


def main() -> None:
    """The console command."""
    os.umask(0o077)  # as the server: what is made is for the owner alone
    cli(prog_name=PROGRAM)
