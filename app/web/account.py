"""My data: how much there is, all of it out and in as a package, the password, and the account's end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import flask
from flask_babel import gettext
from flask_babel import lazy_gettext as _
from wtforms import PasswordField
from wtforms.validators import EqualTo, InputRequired, Length

from app.auth.authenticator import Authenticator
from app.auth.aws.users import UserList
from app.auth.hostkeys import HostKeys
from app.auth.local.users import ListedUser
from app.deletions import DAYS, Deletions
from app.errors import AuthError
from app.packages import PACKAGE_BYTES, PackageRefused, Packages
from app.web.browsers import describe_browser
from app.web.files import FileGiver
from app.web.forms import PageForm
from app.web.pages import Pages, done, keep_signed_in, link
from app.web.visitor import Visitor
from app.web.words import counted, moment, size_in_words
from storage.database.store import DatabaseStore
from storage.errors import NotFound
from storage.types import DatabaseId, DatabaseKind, UserId

_LEAST_PASSWORD: Final = 8
_LONGEST_PASSWORD: Final = 1024


class PasswordForm(PageForm):
    """The present password, and twice a new one."""

    current = PasswordField(
        _("Present password"), [InputRequired()], render_kw={"autocomplete": "current-password"}
    )
    new = PasswordField(
        _("New password"),
        [
            InputRequired(),
            Length(_LEAST_PASSWORD, _LONGEST_PASSWORD, _("A password needs at least %(min)d characters.")),
        ],
        render_kw={"autocomplete": "new-password"},
    )
    again = PasswordField(
        _("New password again"),
        [EqualTo("new", _("This is not the same as above."))],
        render_kw={"autocomplete": "new-password"},
    )


class DeletionForm(PageForm):
    """The present password."""

    confirmation = PasswordField(
        _("Your password"), [InputRequired()], render_kw={"autocomplete": "current-password"}
    )


class Account:
    """What the page shows and does for the user at hand."""

    def __init__(  # noqa: PLR0913, PLR0917 - collaborators
        self,
        databases: DatabaseStore,
        users: UserList,
        authenticator: Authenticator,
        keys: HostKeys,
        packages: Packages,
        deletions: Deletions,
        clock_ms: Callable[[], int],
    ) -> None:
        self.databases, self.users, self.keys = databases, users, keys
        self.authenticator, self.packages, self.deletions = authenticator, packages, deletions
        self.clock_ms = clock_ms

    def listed(self, user: UserId) -> ListedUser | None:
        """The user, if this server keeps the password and may change it."""
        found = next((one for one in self.users.list() if one.id == user), None)
        return found if found is not None and found.source == "list" else None

    def is_password(self, visitor: Visitor, password: str, address: str) -> bool:
        """Whether the visitor knows the account's password, under the limits of logins."""
        try:
            key = self.authenticator.sign_in(visitor.name, password, address, "")
        except AuthError:
            return False
        session = self.authenticator.find_session(key)
        if session is not None:
            self.keys.revoke(session.hash)
        return session is not None and session.user == visitor.user

    def facts(self, user: UserId) -> dict[str, Any]:
        """How much is kept."""
        collection, media = (self.databases.head(DatabaseId(user, kind)) for kind in DatabaseKind)
        counts = [
            counted(name, int(collection.stamps.get(stamp, 0)))
            for name, stamp in (("notes", "notes"), ("cards", "cards"), ("reviews", "revlog"))
        ]
        due_ms = self.deletions.due_ms(user)
        return {
            "has_collection": collection.version > 0,
            "content": ", ".join(counts),
            "collection_size": size_in_words(collection.page_size * collection.page_count),
            "files": counted("files", int(media.stamps.get("count", 0))),
            "media_size": size_in_words(int(media.stamps.get("bytes", 0))),
            "due": None if due_ms is None else moment(due_ms, self.clock_ms()),
            "days": DAYS,
        }


def add_account(  # noqa: C901 - registers views
    pages: Pages, account: Account, giver: FileGiver, scratch: Path, nonce: Callable[[], str]
) -> None:
    """Register the pages."""

    def address() -> str:
        return pages.address_of(flask.request.environ)

    def show(visitor: Visitor, *, fault: str = "", **forms: PageForm) -> str:
        is_listed = account.listed(visitor.user) is not None
        password = forms.get("password") or (PasswordForm(formdata=None) if is_listed else None)
        deletion = forms.get("deletion") or DeletionForm(formdata=None)
        return flask.render_template(
            "account.html",
            password=password,
            deletion=deletion,
            is_listed=is_listed,
            fault=fault,
            **account.facts(visitor.user),
        )

    @pages.page("/account", menu=_("My data"))
    def account_page(visitor: Visitor) -> Any:
        return show(visitor)

    @pages.page("/all-data")
    def all_data(visitor: Visitor) -> Any:
        day = datetime.fromtimestamp(account.clock_ms() / 1000, UTC).strftime("%Y-%m-%d")
        try:
            with giver.at_work(visitor.user), account.packages.whole(visitor.user) as path:
                return giver.give(visitor.user, path, f"collection-{day}.colpkg")
        except (NotFound, IndexError):
            flask.abort(404)

    @pages.page("/upload-package", methods=("POST",), limit_bytes=PACKAGE_BYTES)
    def upload_package(visitor: Visitor) -> Any:
        sent = flask.request.files.get("package")
        if sent is None or not sent.filename:
            return show(visitor, fault=gettext("Choose a file first.")), 400
        path = scratch / f"{nonce()}.colpkg"
        try:
            with giver.at_work(visitor.user):
                pages.pools.run(lambda: sent.save(path))
                taken = account.packages.take(visitor.user, path)
        except PackageRefused as exc:
            return show(visitor, fault=gettext("Nothing was changed: %(reason)s", reason=str(exc))), 400
        finally:
            path.unlink(missing_ok=True)
        return flask.redirect(link("uploaded", notes=taken.notes, files=taken.files), 303)

    @pages.page("/uploaded")
    def uploaded(visitor: Visitor) -> Any:
        del visitor
        numbers = {name: flask.request.args.get(name, 0, type=int) for name in ("notes", "files")}
        texts = {name: counted(name, number) for name, number in numbers.items()}
        return flask.render_template("uploaded.html", **texts)

    @pages.page("/change-password", methods=("POST",))
    def change_password(visitor: Visitor) -> Any:
        listed = account.listed(visitor.user)
        if listed is None:
            flask.abort(404)
        form = PasswordForm()
        if not form.validate():
            return show(visitor, password=form), 400
        if not account.is_password(visitor, form.current.data, address()):
            form.current.errors = [gettext("This is not your present password.")]
            return show(visitor, password=form), 403
        account.users.change_password(listed.name, form.new.data)
        # That ended all logins, this one too.
        client = describe_browser(flask.request.headers.get("User-Agent", ""))
        key = account.authenticator.sign_in(listed.name, form.new.data, address(), client)
        return keep_signed_in(flask.make_response(done("account_page", "password")), visitor, key)

    @pages.page("/delete-account", methods=("POST",))
    def delete_account(visitor: Visitor) -> Any:
        form = DeletionForm()
        if not form.validate():
            return show(visitor, deletion=form), 400
        if not account.is_password(visitor, form.confirmation.data, address()):
            form.confirmation.errors = [gettext("This is not your password.")]
            return show(visitor, deletion=form), 403
        account.deletions.ask(visitor.user)
        return done("account_page", "deletion")

    @pages.page("/keep-account", methods=("POST",))
    def keep_account(visitor: Visitor) -> Any:
        account.deletions.take_back(visitor.user)
        return done("account_page", "kept")

    pages.add_notices(
        {
            "password": _("Your password is changed. Log in anew on each device."),
            "deletion": _("Your data will be deleted. Until then you can change your mind here."),
            "kept": _("Your account stays."),
        }
    )
