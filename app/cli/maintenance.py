"""`ankisyncctl maintenance`: close the service for a while, and tell its users why."""

from __future__ import annotations

from collections.abc import Callable

import click
from msgspec.structs import replace

from app.cli.audit import Change
from app.cli.context import Admin
from app.cli.output import say, show
from app.cli.store import as_json
from app.main import new_nonce, now_ms
from app.orders import LOOK_S
from storage.database.orders import Orders, OrdersRecord

_LONGEST_TEXT = 500
_COLUMNS = ("state", "since_ms", "text")


@click.group()
def maintenance() -> None:
    """Close the service for a while; devices show your text and stay logged in."""


@maintenance.command("on", cls=Change)
@click.argument("text")
@as_json
@click.pass_obj
def close(admin: Admin, text: str, *, as_json: bool) -> None:
    """Close the service; TEXT is what Anki shows, for example "Back at 15:00, the disks are being moved".

    No deployment or restart is needed. Until it is open again, every request but /health is refused and
    nothing is written; syncs that run are broken off, and their devices try again later.
    """
    text = text.strip()
    if not text or len(text) > _LONGEST_TEXT or text != text.encode("utf-8", "replace").decode():
        raise click.UsageError(f"TEXT has 1 to {_LONGEST_TEXT} characters")

    def close_at(orders: Orders) -> Orders:
        return replace(orders, closed_text=text, closed_since_ms=orders.closed_since_ms or now_ms())

    _change(admin, close_at)
    sentence = f"The service is closed; all workers follow within {LOOK_S:.0f} seconds."
    say(sentence, {"state": "closed", "text": text}, as_json=as_json)


@maintenance.command("off", cls=Change)
@as_json
@click.pass_obj
def reopen(admin: Admin, *, as_json: bool) -> None:
    """Open the service again."""
    _change(admin, lambda orders: replace(orders, closed_text="", closed_since_ms=0))
    sentence = f"The service is open; all workers follow within {LOOK_S:.0f} seconds."
    say(sentence, {"state": "open"}, as_json=as_json)


@maintenance.command("status")
@as_json
@click.pass_obj
def tell(admin: Admin, *, as_json: bool) -> None:
    """Whether the service is closed, since when, and what devices are told."""
    with admin.stores() as stores:
        orders = OrdersRecord(stores.heads, now_ms, new_nonce).read()
    row = {
        "state": "closed" if orders.closed_text else "open",
        "since_ms": orders.closed_since_ms or None,
        "text": orders.closed_text or None,
    }
    show([row], _COLUMNS, as_json=as_json)


def _change(admin: Admin, change: Callable[[Orders], Orders]) -> None:
    with admin.stores() as stores:
        OrdersRecord(stores.heads, now_ms, new_nonce).change(change)
