"""How the tests look into a plan or a state."""

from __future__ import annotations


def resources(document: dict) -> list[dict]:
    """All resources of a plan or a state, from every module."""
    values = document.get("planned_values") or document.get("values") or {}
    found, modules = [], [values["root_module"]] if "root_module" in values else []
    while modules:
        module = modules.pop()
        found += module.get("resources", [])
        modules += module.get("child_modules", [])
    return found


def managed(document: dict, kind: str | None = None) -> list[dict]:
    """The resources, without data sources; of one type, if that is given."""
    return [one for one in resources(document) if one["mode"] == "managed" and kind in (None, one["type"])]
