"""How the tests look into a plan or a state."""

from __future__ import annotations


def resources(document: dict) -> list[dict]:
    """All resources of a plan or a state, from every module."""
    values = document.get("planned_values") or document["values"]
    found, modules = [], [values["root_module"]]
    while modules:
        module = modules.pop()
        found += module.get("resources", [])
        modules += module.get("child_modules", [])
    return found
