"""Who is logged in as this user: devices, generated passwords and browsers; and how to end that."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import flask
import msgspec
from flask_babel import lazy_gettext as _
from wtforms import StringField
from wtforms.validators import DataRequired, Length

from app.auth.authenticator import Authenticator
from app.auth.hostkeys import HostKeys, KeyKind, KeyRecord
from app.web.browsers import describe_client
from app.web.forms import PageForm
from app.web.pages import Pages, done
from app.web.visitor import Visitor
from app.web.words import moment
from storage.types import UserId

_LONGEST_NAME: Final = 40


class Login(msgspec.Struct, frozen=True):
    """A key as the page shows it."""

    id: str
    name: str
    client: str
    created: str
    used: str
    is_own: bool


class DevicePasswordForm(PageForm):
    """What to call a new password."""

    name = StringField(
        _("Name of the device"),
        [DataRequired(), Length(max=_LONGEST_NAME)],
        filters=[lambda text: " ".join(text.split()) if text else text],
        render_kw={"autocomplete": "off"},
    )


def add_devices(
    pages: Pages, authenticator: Authenticator, keys: HostKeys, clock_ms: Callable[[], int]
) -> None:
    """Register the pages."""

    def show(visitor: Visitor, form: DevicePasswordForm) -> str:
        records = sorted(keys.list(visitor.user), key=lambda record: record.used_ms, reverse=True)
        now_ms = clock_ms()

        def of(kind: KeyKind) -> list[Login]:
            return [_described(record, visitor, now_ms) for record in records if record.kind is kind]

        return flask.render_template(
            "devices.html",
            devices=of(KeyKind.DEVICE),
            passwords=of(KeyKind.PASSWORD),
            browsers=[
                _described(record, visitor, now_ms)
                for record in records
                if record.kind is KeyKind.BROWSER and not pages.visitors.is_over(record)
            ],
            form=form,
        )

    @pages.page("/devices", menu=_("Devices"))
    def devices(visitor: Visitor) -> Any:
        return show(visitor, DevicePasswordForm(formdata=None))

    @pages.page("/log-out-device", methods=("POST",))
    def log_out_device(visitor: Visitor) -> Any:
        chosen = flask.request.form.get("id", "")
        for record in _with_children(keys.list(visitor.user), chosen):
            keys.revoke(record.hash)
        return done("devices", "device-out")

    @pages.page("/log-out-all", methods=("POST",))
    def log_out_all(visitor: Visitor) -> Any:
        end_all(keys, visitor.user, besides=visitor.session)
        return done("devices", "all-out")

    @pages.page("/device-password", methods=("POST",))
    def device_password(visitor: Visitor) -> Any:
        form = DevicePasswordForm()
        if not form.validate():
            return show(visitor, form), 400
        password = authenticator.add_device_password(visitor.key, form.name.data)
        return flask.render_template("device-password.html", name=form.name.data, password=password)

    pages.add_notices(
        {
            "device-out": _("It is logged out, and can no longer sync after half a minute at most."),
            "all-out": _("All devices and all other browsers are logged out."),
        }
    )


def end_all(keys: HostKeys, user: UserId, *, besides: KeyRecord | None) -> None:
    """End all logins of a user but the session `besides`; the passwords first, which could make new ones."""
    spared = {KeyKind.DELETION}
    records = [
        record
        for record in keys.list(user)
        if record.kind not in spared and (besides is None or record.hash != besides.hash)
    ]
    for record in sorted(records, key=lambda record: record.kind is not KeyKind.PASSWORD):
        keys.revoke(record.hash)


def _with_children(records: Iterable[KeyRecord], key_id: str) -> list[KeyRecord]:
    """The record of that id and, of a generated password, those of the devices that logged in with it."""
    every = [record for record in records if record.kind is not KeyKind.DELETION]
    chosen = [record for record in every if record.id == key_id]
    parents = {record.hash for record in chosen}
    return [*chosen, *(record for record in every if record.parent in parents)]


def _described(record: KeyRecord, visitor: Visitor, now_ms: int) -> Login:
    assert visitor.session is not None
    client = record.client if record.kind is KeyKind.BROWSER else describe_client(record.client)
    return Login(
        record.id,
        record.name if record.kind is not KeyKind.BROWSER else "",
        client,
        moment(record.created_ms, now_ms),
        moment(record.used_ms, now_ms),
        record.hash == visitor.session.hash,
    )
