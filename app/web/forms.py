"""Forms of the pages. Each carries the token of its visitor, which `app.web.pages` compares."""

from __future__ import annotations

from typing import Any

import flask
from flask_babel import lazy_gettext as _
from flask_wtf import FlaskForm
from wtforms import PasswordField, StringField
from wtforms.csrf.core import CSRF
from wtforms.validators import InputRequired, Length

from app.auth.users import NAME_LENGTH

TOKEN_FIELD = "token"  # noqa: S105 - the name of a field
_LONGEST_PASSWORD = 1024


class _VisitorToken(CSRF):  # type: ignore[misc]
    """Puts the visitor's token into the form. It was compared before the view is called."""

    def generate_csrf_token(self, csrf_token_field: Any) -> str:
        del csrf_token_field
        token: str = flask.g.visitor.form_token
        return token

    def validate_csrf_token(self, form: Any, field: Any) -> None:
        """See `app.web.pages.Pages`."""


class PageForm(FlaskForm):  # type: ignore[misc]
    """A form without fields: a button."""

    class Meta(FlaskForm.Meta):  # type: ignore[misc]
        """How WTForms makes the token's field."""

        csrf = True
        csrf_class = _VisitorToken
        csrf_field_name = TOKEN_FIELD
        csrf_context = None


class SignInForm(PageForm):
    """Name and password, as in Anki."""

    username = StringField(
        _("User name"),
        [InputRequired(), Length(max=4 * NAME_LENGTH)],
        filters=[lambda text: text.strip() if text else text],
        render_kw={"autocomplete": "username", "autocapitalize": "none", "spellcheck": "false"},
    )
    password = PasswordField(
        _("Password"),
        [InputRequired(), Length(max=_LONGEST_PASSWORD)],
        render_kw={"autocomplete": "current-password"},
    )
