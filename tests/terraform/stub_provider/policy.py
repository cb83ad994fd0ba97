"""What `aws_iam_policy_document` makes of its blocks, since the tests read its JSON."""

from __future__ import annotations

import json

import msgpack

OPTIONAL = {
    "actions": "Action",
    "not_actions": "NotAction",
    "resources": "Resource",
    "not_resources": "NotResource",
}


def one_or_many(values: list) -> object:
    return values[0] if len(values) == 1 else sorted(values, reverse=True)


def principals(blocks: list) -> object:
    if any(block["type"] == "*" for block in blocks):
        return "*"
    return {block["type"]: one_or_many(block["identifiers"]) for block in blocks}


def render(config: dict) -> object:
    """The document as JSON, or unknown where a part of it is not known yet."""
    if _unknown(config):
        return msgpack.ExtType(0, b"")
    statements = []
    for block in config.get("statement") or []:
        statement: dict = {"Effect": block.get("effect") or "Allow"}
        if block.get("sid"):
            statement["Sid"] = block["sid"]
        for argument, element in OPTIONAL.items():
            if block.get(argument):
                statement[element] = one_or_many(block[argument])
        for argument, element in (("principals", "Principal"), ("not_principals", "NotPrincipal")):
            if block.get(argument):
                statement[element] = principals(block[argument])
        for condition in block.get("condition") or []:
            tests = statement.setdefault("Condition", {}).setdefault(condition["test"], {})
            tests[condition["variable"]] = one_or_many(condition["values"])
        statements.append(statement)
    for source in config.get("source_policy_documents") or []:
        statements = json.loads(source)["Statement"] + statements
    return json.dumps({"Version": config.get("version") or "2012-10-17", "Statement": statements})


def _unknown(value: object) -> bool:
    if isinstance(value, msgpack.ExtType):
        return True
    if isinstance(value, dict):
        return any(map(_unknown, value.values()))
    return isinstance(value, list) and any(map(_unknown, value))
