"""Hides parts of a notetype's JSON from the engine, and puts them into its result. Used by `codec`.

The engine's call normalises names, moves the sort field, and parses all templates to find the fields that
a card needs. But a merge must store a notetype as it came, and parsing untrusted templates may take very
long. So the engine gets the notetype without names and templates (`masked`), and they are put into the
rows (`unmasked`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from storage.collection.errors import InvalidChange
from storage.lazy import LazyModule

_messages: Any = LazyModule("anki.notetypes_pb2")

_TEMPLATE_TEXTS = {
    "qfmt": "q_format",
    "afmt": "a_format",
    "bqfmt": "q_format_browser",
    "bafmt": "a_format_browser",
}

_SOME_FIELD = {"ord": 0, "sticky": False, "rtl": False, "font": "", "size": 0}
"""A field for notetypes without any: they exist, but the engine's call does not accept them."""

_REQUIREMENT_KINDS = {"none": "KIND_NONE", "any": "KIND_ANY", "all": "KIND_ALL"}


class Part(NamedTuple):
    """A row of `fields` or `templates` without its notetype."""

    ord: int
    name: str
    config: bytes


class NotetypeRows(NamedTuple):
    """A row of `notetypes` with its rows of `fields` and `templates`, ordered by `ord`."""

    id: int
    name: str
    mtime_secs: int
    usn: int
    config: bytes
    fields: list[Part]
    templates: list[Part]


def sort_field_index(config: bytes) -> int:
    """The index of the sort field, from the `config` column of a notetype."""
    index: int = _messages.Notetype.Config.FromString(config).sort_field_idx
    return index


def masked(notetype: dict[str, Any]) -> dict[str, Any]:
    """The notetype with placeholders for its names and templates. Raises: InvalidChange."""
    _text(notetype, "name")
    fields = [_masked_part(field, f"f{ord_}") for ord_, field in enumerate(_parts(notetype, "flds"))]
    templates = [
        _masked_part(template, f"t{ord_}") for ord_, template in enumerate(_parts(notetype, "tmpls"))
    ]
    for template in templates:
        for key in _TEMPLATE_TEXTS:
            if key in template or key == "qfmt":
                _text(template, key)
                # An empty template is parsed at once.
                template[key] = ""
    return {
        **notetype,
        "name": "n",
        # At least one field and one template, which the engine requires; `unmasked` drops them again.
        "flds": fields or [{**_SOME_FIELD, "name": "f"}],
        "tmpls": templates or [{"name": "t", "ord": 0, "qfmt": ""}],
    }


def unmasked(
    notetype: dict[str, Any], core: Sequence[Any], fields: list[str], templates: list[str]
) -> NotetypeRows:
    """The rows of the notetype, from the engine's rows of the masked one (blobs as hex)."""
    notetype_id, mtime_secs, usn, config = core
    return NotetypeRows(
        notetype_id,
        notetype["name"],
        mtime_secs,
        usn,
        _config(notetype, bytes.fromhex(config)),
        [
            Part(ord_, field["name"], bytes.fromhex(config))
            # `strict=False`: the result has one more if a placeholder was added.
            for ord_, (field, config) in enumerate(zip(notetype["flds"], fields, strict=False))
        ],
        [
            Part(ord_, template["name"], _template_config(template, bytes.fromhex(config)))
            for ord_, (template, config) in enumerate(zip(notetype["tmpls"], templates, strict=False))
        ],
    )


def _text(of: dict[str, Any], key: str) -> str:
    text = of.get(key)
    if not isinstance(text, str):
        raise InvalidChange(f"{key} of a notetype, field or template is no text")
    return text


def _parts(notetype: dict[str, Any], key: str) -> list[dict[str, Any]]:
    parts = notetype.get(key)
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise InvalidChange(f"{key} of a notetype is no list of objects")
    return parts


def _masked_part(part: dict[str, Any], name: str) -> dict[str, Any]:
    _text(part, "name")
    return {**part, "name": name}


def _config(notetype: dict[str, Any], encoded: bytes) -> bytes:
    config = _messages.Notetype.Config.FromString(encoded)
    # The engine may have changed the index.
    config.sort_field_idx = notetype["sortf"]
    del config.reqs[:]
    config.reqs.extend(_requirements(notetype.get("req")))
    serialised: bytes = config.SerializeToString()
    return serialised


def _template_config(template: dict[str, Any], encoded: bytes) -> bytes:
    config = _messages.Notetype.Template.Config.FromString(encoded)
    for key, attribute in _TEMPLATE_TEXTS.items():
        setattr(config, attribute, template.get(key, ""))
    serialised: bytes = config.SerializeToString()
    return serialised


def _requirements(requirements: Any) -> list[Any]:
    """Parse `[[ord, "any" | "all" | "none", [field ord, ...]], ...]`; anything else gives an empty list."""
    if not isinstance(requirements, list):
        return []
    requirement_of, found = _messages.Notetype.Config.CardRequirement, []
    for requirement in requirements:
        match requirement:
            case [int(card_ord), str(kind), [*field_ords]] if kind in _REQUIREMENT_KINDS and all(
                _is_uint16(number) for number in (card_ord, *field_ords)
            ):
                found.append(
                    requirement_of(card_ord=card_ord, kind=_REQUIREMENT_KINDS[kind], field_ords=field_ords)
                )
            case _:
                return []
    return found


def _is_uint16(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**16
