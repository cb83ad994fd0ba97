"""`ankisyncctl quota`: how much users may keep."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import click
from msgspec.structs import replace

from app.cli.audit import Change
from app.cli.context import Admin
from app.cli.output import Row, say, show
from app.cli.store import as_json
from app.main import default_quota, new_nonce, now_ms
from storage.database.orders import Orders, OrdersRecord, OrdersTooLarge, Quota
from storage.types import DatabaseId, DatabaseKind, UserId

_COLUMNS: Final = (
    "user", "collection_bytes", "collection_limit", "media_bytes", "media_bytes_limit", "media_files",
    "media_files_limit", "source",
)  # fmt: skip
_UNITS: Final = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_NO_LIMIT: Final = 0


class _AmountType(click.ParamType[int]):
    """A number, with K, M, G or T for thousands, millions, ...; or none."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; 0 for no limit."""
        if isinstance(value, int):
            return value
        if str(value).lower() == "none":
            return _NO_LIMIT
        match = re.fullmatch(r"(\d{1,15})([kmgt]?)", str(value).lower())
        if match is None or int(match[1]) == 0:
            raise click.BadParameter(f"{value!r} is neither like 500M nor `none`", ctx, param)
        return int(match[1]) * _UNITS[match[2]]


_AMOUNT: Final = _AmountType()


@click.group()
def quota() -> None:
    """How much users may keep; ANKISYNCD_QUOTA_... hold for those who have no quota of their own."""


@quota.command("set", cls=Change)
@click.argument("name")
@click.option("--collection", type=_AMOUNT, help="Bytes of the collection, as 500M; or none.")
@click.option("--media", type=_AMOUNT, help="Bytes of all media files, as 5G; or none.")
@click.option("--media-files", type=_AMOUNT, help="Number of media files; or none.")
@as_json
@click.pass_obj
def set_quota(  # noqa: PLR0913 - one for each option
    admin: Admin,
    name: str,
    collection: int | None,
    media: int | None,
    media_files: int | None,
    *,
    as_json: bool,
) -> None:
    """Give the user NAME a quota of their own; `none` takes a limit away, what is not named stays.

    What is kept already stays: it may only become less. A collection that is over its quota asks each device
    for a one-way sync, whose upload is refused while it is too large, in words that Anki shows.
    """
    chosen = {"collection_bytes": collection, "media_bytes": media, "media_files": media_files}
    chosen = {field: amount for field, amount in chosen.items() if amount is not None}
    if not chosen:
        raise click.UsageError("give at least one of --collection, --media, --media-files")
    user = admin.find_user(name).id
    _change(admin, lambda quotas: {**quotas, user: replace(quotas.get(user, Quota()), **chosen)})
    say(
        f"Set the quota of {name}; all workers follow within seconds.",
        {"name": name, **chosen},
        as_json=as_json,
    )


@quota.command("clear", cls=Change)
@click.argument("name")
@as_json
@click.pass_obj
def clear_quota(admin: Admin, name: str, *, as_json: bool) -> None:
    """Take the quota of the user NAME away: that of the settings holds."""
    user = admin.find_user(name).id
    _change(admin, lambda quotas: {each: own for each, own in quotas.items() if each != user})
    say(f"The quota of {name} is that of the settings.", {"name": name}, as_json=as_json)


@quota.command("show")
@click.argument("name", required=False)
@as_json
@click.pass_obj
def show_quotas(admin: Admin, name: str | None, *, as_json: bool) -> None:
    """What the user NAME keeps and may keep; without NAME, all who have a quota of their own."""
    chosen = admin.find_user(name) if name else None
    names = {chosen.id: chosen.name} if chosen else admin.names()
    with admin.stores() as stores:
        orders = OrdersRecord(stores.heads, now_ms, new_nonce).read()
        users = [chosen.id] if chosen else [UserId(user) for user in orders.quotas]
        rows = []
        for user in users:
            collection, media = stores.databases.sessions.heads(
                [DatabaseId(user, DatabaseKind.COLLECTION), DatabaseId(user, DatabaseKind.MEDIA)]
            )
            limits = orders.quota_of(user, default_quota(admin.settings))
            row: Row = {
                "user": names.get(user, user),
                "collection_bytes": collection.page_size * collection.page_count,
                "collection_limit": limits.collection_bytes,
                "media_bytes": media.stamps.get("bytes", 0),
                "media_bytes_limit": limits.media_bytes,
                "media_files": media.stamps.get("count", 0),
                "media_files_limit": limits.media_files,
                "source": "own" if user in orders.quotas else "settings",
            }
            rows.append(row)
    show(rows, _COLUMNS, as_json=as_json)


def _change(admin: Admin, change: Callable[[dict[str, Quota]], dict[str, Quota]]) -> None:
    def replaced(orders: Orders) -> Orders:
        return replace(orders, quotas=change(orders.quotas))

    with admin.stores() as stores:
        try:
            OrdersRecord(stores.heads, now_ms, new_nonce).change(replaced)
        except OrdersTooLarge as exc:
            raise click.ClickException(f"too many users have quotas of their own: {exc}") from exc
