"""Numbers and times in words, for all pages."""

from __future__ import annotations

from datetime import UTC, datetime

from flask_babel import format_datetime, format_timedelta, gettext, ngettext
from markupsafe import Markup, escape

_UNITS = ("kB", "MB", "GB", "TB")


def size_in_words(size_bytes: int) -> str:
    """`3.4 MB`, as people's file browsers have it."""
    size, unit = size_bytes / 1000, 0
    while size >= 1000 and unit + 1 < len(_UNITS):
        size, unit = size / 1000, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if size < 100 else f"{size:.0f} {_UNITS[unit]}"


def moment(time_ms: int, now_ms: int) -> Markup:
    """`2 hours ago` and the date and time, in UTC: the server knows no zone of its reader."""
    time = datetime.fromtimestamp(time_ms / 1000, UTC)
    ago = format_timedelta((time_ms - now_ms) / 1000 * _SECOND, add_direction=True)
    exact = gettext("%(time)s UTC", time=format_datetime(time, "d MMM yyyy, HH:mm"))
    iso = time.isoformat(timespec="seconds")
    return Markup('<time datetime="{}">{} <small>({})</small></time>').format(iso, escape(ago), exact)


_SECOND = datetime.resolution * 1_000_000


def counted(name: str, number: int) -> str:
    """`12 notes`; `name` is one of notes, cards, reviews and files."""
    texts = {
        "notes": ngettext("%(num)d note", "%(num)d notes", number),
        "cards": ngettext("%(num)d card", "%(num)d cards", number),
        "reviews": ngettext("%(num)d review", "%(num)d reviews", number),
        "files": ngettext("%(num)d file", "%(num)d files", number),
    }
    return str(texts[name])


def difference(names: tuple[str, ...], then: tuple[int, ...], now: tuple[int, ...]) -> str:
    """What a version has more or less than the present one: `3 notes fewer, 120 reviews more than now`."""
    changes = []
    for name, old, new in zip(names, then, now, strict=False):
        if old > new:
            changes.append(gettext("%(count)s more", count=counted(name, old - new)))
        elif old < new:
            changes.append(gettext("%(count)s fewer", count=counted(name, new - old)))
    if not changes:
        return str(gettext("as many as now"))
    return str(gettext("%(changes)s than now", changes=", ".join(map(str, changes))))
