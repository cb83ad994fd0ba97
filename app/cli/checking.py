"""Commands that look whether something is right: `check` the services, `config check`, `user check`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Final

import apsw
import click

from app.cli import store
from app.cli.context import Admin
from app.cli.folders import use_folder
from app.cli.output import Row, show
from app.cli.password import password_stdin, read_password
from app.config import Settings, SettingsError, Source
from app.errors import AppError, AuthError, LoginRefused, RateLimited
from app.main import new_nonce
from storage.database.maintenance.mark import HeadsMark
from storage.errors import StorageError

_OK: Final = "ok"
_CHECK_COLUMNS = ("service", "place", "state", "detail")
_LOGIN_COLUMNS = ("user", "result", "detail")
_CONFIG_COLUMNS = ("setting", "value", "source")
_SECRETS: Final = frozenset({"COGNITO_CLIENT_SECRET"})
_MASK: Final = "********"
_SDK_SECRETS: Final = ("SECRET", "TOKEN")
_WRONG_SETTINGS: Final = 2


@click.command("check")
@store.as_json
@click.pass_obj
def check(admin: Admin, *, as_json: bool) -> None:
    """Try each service that is configured: folders, bucket, table, user pool, and what is kept in them.

    A line each; exit code 1 if one of them cannot be used.
    """
    rows = list(_services(admin))
    show(rows, _CHECK_COLUMNS, as_json=as_json)
    if any(row["state"] != _OK for row in rows):
        sys.exit(1)


def _services(admin: Admin) -> Iterator[Row]:
    settings = admin.settings
    folders = {settings.cache_dir: "cache folder"}
    if settings.cloud is None:
        folders[settings.data_root] = "data folder"
    is_usable = True
    for folder, service in folders.items():
        fault = ""
        try:
            use_folder(folder)
        except (OSError, apsw.Error) as exc:
            fault = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
            is_usable = False
        yield _row(service, str(folder), fault)
    if admin.settings.cloud is not None or admin.settings.cognito is not None:
        from app.cloud import examine  # noqa: PLC0415 - only the cloud needs the SDK

        for found in examine(settings):
            fault = found.finding.text if found.finding else ""
            is_usable = is_usable and (found.service == "user pool" or not fault)
            yield _row(found.service, found.place, fault)
    if is_usable:
        yield _records(admin)
        yield _users(admin)


def _records(admin: Admin) -> Row:
    """Whether head records and objects belong together."""
    fault = ""
    try:
        with admin.stores() as stores:
            fault = HeadsMark(stores.heads, stores.objects, new_nonce).find_fault() or ""
    except (StorageError, OSError, apsw.Error) as exc:
        fault = str(exc)
    return _row("head records", admin.settings.place, fault)


def _users(admin: Admin) -> Row:
    if admin.settings.cognito is not None:
        return _row("users", admin.settings.cognito.pool.pool_id, "")
    try:
        count = sum(1 for _ in admin.users.list())
    except (AppError, OSError, apsw.Error) as exc:
        return _row("users", admin.settings.place, str(exc))
    place = admin.settings.place if admin.settings.cloud is None else "SYNC_USERn"
    return _row("users", place, "") | {"detail": f"{count} may log in"}


def _row(service: str, place: str, fault: str) -> Row:
    state = "fault" if fault else _OK
    return {"service": service, "place": place, "state": state, "detail": " ".join(fault.split()) or None}


@click.command("check")
@click.argument("name")
@password_stdin
@click.option("--address", help="Also tell whether logins from this address are limited now.")
@store.as_json
@click.pass_obj
def check_login(admin: Admin, name: str, address: str | None, *, password_stdin: bool, as_json: bool) -> None:
    """Try a password of the user NAME, also of a user pool: right, wrong, unknown, limited or refused.

    "Refused" is a right password with which the user pool wants something more. Nothing is counted, and no
    device is logged in. Exit code 0 only for a right password, 3 if the user pool is away.
    """
    result, detail = "right", None
    try:
        user = admin.accounts.authenticator.try_login(
            name, read_password(from_stdin=password_stdin, is_new=False), address
        )
        detail = f"id {user}"
    except RateLimited as exc:
        result, detail = "limited", f"{exc}; try again in {exc.retry_after_s} s"
    except LoginRefused as exc:
        result, detail = "refused", str(exc)
    except AuthError as exc:
        is_known = admin.accounts.authenticator.knows(name)
        result = "unknown" if is_known is False else "wrong"
        detail = str(exc) if is_known is not None else f"{exc}; whether there is such a user cannot be told"
    show([{"user": name, "result": result, "detail": detail}], _LOGIN_COLUMNS, as_json=as_json)
    if result != "right":
        sys.exit(1)


@click.group("config")
def config() -> None:
    """The settings, which are environment variables."""


@config.command("check")
@store.as_json
def check_config(*, as_json: bool) -> None:
    """Every setting, its value and where it came from; secrets are masked.

    Names and values of earlier servers are answered with what replaced them. Exit code 2 if the server
    could not start with these settings.
    """
    sources: dict[str, Source] = {}
    settings: Settings | None = None
    faults: tuple[str, ...] = ()
    try:
        settings = Settings.from_env(os.environ, sources)
    except SettingsError as exc:
        faults = exc.faults
    rows = [_setting_row(name, source, settings) for name, source in sources.items()]
    show([*rows, *_sdk_rows(os.environ)], _CONFIG_COLUMNS, as_json=as_json)
    for line in [*(settings.notes if settings else ()), *faults]:
        click.echo(line, err=True)
    if faults:
        sys.exit(_WRONG_SETTINGS)


def _setting_row(name: str, source: Source, settings: Settings | None) -> Row:
    if source.variable is None:
        found = _default(name, settings) if settings else None
        return {"setting": name, "value": None if found is None else str(found), "source": "default"}
    value = source.value or ""
    if name in _SECRETS:
        value = _MASK
    elif name.startswith("SYNC_USER"):
        value = f"{value.partition(':')[0]}:{_MASK}" if ":" in value else _MASK
    return {"setting": name, "value": value, "source": source.variable}


def _default(name: str, settings: Settings) -> object:
    """What holds if the variable is not set; None where nothing does, or where it is chosen at the start."""
    own = {
        "ANKISYNCD_AUTH": "cognito" if settings.cognito else "local",
        "ANKISYNCD_BACKEND": "aws" if settings.cloud else "local",
        "ANKISYNCD_COGNITO_FLOW": settings.cognito and settings.cognito.pool.flow.value,
        "ANKISYNCD_HEADS": settings.cloud and settings.cloud.heads.value,
        "ANKISYNCD_IP_HEADER": settings.address_source.value,
        "ANKISYNCD_RECHECK_MINUTES": settings.cognito and settings.cognito.recheck_minutes,
        "AWS_REGION": settings.region,
        "COGNITO_REGION": settings.cognito and settings.cognito.region,
        "MAX_SYNC_PAYLOAD_MEGS": settings.payload_mib,
        "SYNC_BASE": settings.official_base,
    }
    # Other settings are called as their field is.
    return own[name] if name in own else getattr(settings, name.removeprefix("ANKISYNCD_").lower(), None)


def _sdk_rows(environ: Mapping[str, str]) -> Iterator[Row]:
    """What AWS's own tools read from the environment."""
    for name in sorted(environ):
        if name.startswith("AWS_") and name not in {"AWS_REGION", "AWS_DEFAULT_REGION"} and environ[name]:
            is_secret = any(word in name for word in _SDK_SECRETS)
            yield {"setting": name, "value": _MASK if is_secret else environ[name], "source": name}
