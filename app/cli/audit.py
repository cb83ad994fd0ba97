"""The audit trail: which operator changed what, and how it ended. The only place that writes it.

A command that changes something is declared with `cls=Change`. It then writes a line before it begins and
another one when it has ended, so that a change that was cut short shows, too.
"""

from __future__ import annotations

import os
import pwd
import sys
import time
from pathlib import Path
from typing import Any, Final

import click

from app.config import LogFormat, Settings
from app.http.accesslog import LineFormatter

FILE: Final = "audit.log"
_META: Final = "ankisyncd.audit"


class AuditTrail:
    """Writes lines in the format of the log: to `audit.log` of the data folder, or to standard error on AWS.

    On AWS a command is a task, whose standard error is in the log group of the server.
    """

    def __init__(self, place: Path | None, style: LogFormat) -> None:
        self._place = place
        self._lines = LineFormatter(style)

    def write(self, action: str, outcome: str, facts: dict[str, Any]) -> None:
        """Write one line, durable on return. Raises: ClickException if that fails."""
        who: dict[str, Any] = {"action": action, "outcome": outcome, "by": operator()}
        line = self._lines.event("audit", who | facts, time.time())
        if self._place is None:
            sys.stderr.write(line.decode())
            sys.stderr.flush()
            return
        try:
            self._place.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._place / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise click.ClickException(
                f"the audit line cannot be written to {self._place / FILE}: {exc.strerror}"
            ) from exc


def trail_of(settings: Settings) -> AuditTrail:
    """The trail of a service."""
    return AuditTrail(settings.data_root if settings.cloud is None else None, settings.log_format)


class Change(click.Command):
    """A command that changes what is kept. Its options are in its audit lines, so none may be a secret."""

    def invoke(self, ctx: click.Context) -> Any:
        """As click does; a dry run leaves no line."""
        if ctx.params.get("dry_run"):
            return super().invoke(ctx)
        trail: AuditTrail = ctx.obj.audit
        action = ctx.command_path.partition(" ")[2]
        asked = {name: _plain(value) for name, value in ctx.params.items() if value not in (None, False, ())}
        trail.write(action, "begun", asked)
        try:
            result = super().invoke(ctx)
        except BaseException as exc:
            outcome = "declined" if isinstance(exc, click.Abort) else "failed"
            reason = {"reason": " ".join(str(exc).split())[:300]}
            trail.write(action, outcome, asked | ctx.meta.get(_META, {}) | reason)
            raise
        trail.write(action, "done", asked | ctx.meta.get(_META, {}))
        return result


def note(**facts: str | int) -> None:
    """Add facts to the last line of the running change, such as the user's id and how much was deleted."""
    click.get_current_context().meta.setdefault(_META, {}).update(facts)


def operator() -> str:
    """The account that runs the command; behind sudo the one that called it, too."""
    number = os.getuid()
    try:
        name = pwd.getpwuid(number).pw_name
    except KeyError:
        name = f"uid {number}"
    caller = os.environ.get("SUDO_USER")
    return f"{caller} as {name}" if caller else name


def _plain(value: Any) -> str | int:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return value if isinstance(value, bool | int) else str(value)
