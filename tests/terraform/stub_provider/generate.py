"""Make `schema.json` from the published bindings of the AWS provider.

The npm package @cdktf/provider-aws is generated from the provider's own schema: every argument,
block and exported attribute stands in its files as regular text. This reads those files; nothing
of them is run. Usage: python generate.py PACKAGE_FOLDER  (the unpacked package, see `fetch.sh`).

Lost in the package, so not checked by the stub: enums, conflicts between arguments, and which
optional arguments the service fills in when they are left out (only `id`, `region` and `tags_all`
are treated so).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
PROVIDER_VERSION = "6.25.0"
FILLED_IN = {"id", "region", "tags_all"}
SCALARS = {"string": "string", "number": "number", "boolean": "bool"}
GETTERS = {
    "getStringAttribute": "string",
    "getNumberAttribute": "number",
    "getBooleanAttribute": "bool",
    "getListAttribute": ["list", "string"],
    "getNumberListAttribute": ["list", "number"],
    "getStringMapAttribute": ["map", "string"],
    "getBooleanMapAttribute": ["map", "bool"],
    "getNumberMapAttribute": ["map", "number"],
}
ARGUMENT = re.compile(
    r"^\s+(\w+): \{\n\s+value: (.*),\n\s+isBlock: (true|false),\n\s+type: \"(\w+)\",\n"
    r"\s+storageClassType: \"(\w+)\",",
    re.MULTILINE,
)
EXPORTED = re.compile(
    r"// (\w+) - computed: true, optional: false, required: false\n\s+get \w+\(\) \{\n\s+return (.*);"
)
COMPLEX = re.compile(
    r"// (\w+) - computed: true, optional: false, required: false\n"
    r"\s+this\._\w+ = new (\w+)\(this, \"\w+\", (true|false)\)"
)
FIELD = re.compile(r"#(\w+) \w+#\w+\}[^/]*?\*/\n\s+readonly \w+(\??):", re.DOTALL)


class Package:
    """The files of one resource or data source."""

    def __init__(self, folder: Path) -> None:
        self.js = (folder / "index.js").read_text()
        typings = (folder / "index.d.ts").read_text()
        self.required = {
            name: {field for field, optional in FIELD.findall(body) if not optional}
            for name, body in re.findall(r"^export interface (\w+)[^{]*\{(.*?)^\}", typings, re.M | re.S)
        }
        self.functions = dict(
            re.findall(r"^function (\w+)ToHclTerraform\(struct\) \{(.*?)^\}", self.js, re.M | re.S)
        )
        self.classes = dict(re.findall(r"^class (\w+) extends [^{]*\{(.*?)^\}", self.js, re.M | re.S))

    def resource(self) -> dict:
        name = next(name for name, body in self.classes.items() if "synthesizeHclAttributes" in body)
        body = self.classes[name]
        block = self.block(
            body[body.index("synthesizeHclAttributes") :], self.required.get(name + "Config", set()), ()
        )
        for attribute, type_ in self.exported(body).items():
            block["attributes"].setdefault(attribute, {"type": type_, "mode": "computed"})
        block["attributes"].setdefault("id", {"type": "string", "mode": "computed"})
        return block

    def block(self, text: str, required: set[str], seen: tuple[str, ...]) -> dict:
        result: dict = {"attributes": {}, "blocks": {}}
        for name, value, is_block, kind, storage in ARGUMENT.findall(text):
            if is_block == "false":
                mode = "required" if name in required else "optional"
                if name in FILLED_IN:
                    mode = "optional_computed"
                result["attributes"][name] = {"type": argument_type(kind, storage), "mode": mode}
                continue
            function = re.search(r"(\w+)ToHclTerraform", value)[1]
            if function in seen:  # a block within itself: its inside is not checked
                result["attributes"][name] = {"type": "string", "mode": "optional"}
                continue
            inner = function[0].upper() + function[1:]
            many = "listMapperHcl" in value
            result["blocks"][name] = {
                "nesting": "single" if kind == "struct" else kind,
                "min": int(name in required),
                "max": 0 if many or kind == "struct" else 1,
                "block": self.block(
                    self.functions[function], self.required.get(inner, set()), (*seen, function)
                ),
            }
            exported = self.exported(self.classes.get(inner + "OutputReference", ""))
            for attribute, type_ in exported.items():
                result["blocks"][name]["block"]["attributes"].setdefault(
                    attribute, {"type": type_, "mode": "computed"}
                )
        return result

    def exported(self, body: str) -> dict:
        found = {}
        for name, value in EXPORTED.findall(body):
            getter = re.match(r"(?:cdktf\.Fn\.tolist\()?this\.(get\w+)\(", value)
            if getter:
                found[name] = GETTERS.get(getter[1], "string")
        for name, cls, is_set in COMPLEX.findall(body):
            inner = self.classes.get(cls.removesuffix("List") + "OutputReference", "")
            found[name] = ["set" if is_set == "true" else "list", ["object", self.exported(inner)]]
        return found


def waf_statement() -> dict:
    """The statements of a web ACL's rule that are in use; the package has no type for them, since
    they contain themselves."""

    def block(attributes: dict, blocks: dict | None = None, *, required: bool = False) -> dict:
        inner = {
            "attributes": {name: {"type": type_, "mode": mode} for name, (type_, mode) in attributes.items()},
            "blocks": blocks or {},
        }
        return {"nesting": "list", "min": int(required), "max": 1, "block": inner}

    transformation = block(
        {"priority": ("number", "required"), "type": ("string", "required")}, required=True
    )
    transformation |= {"nesting": "set", "max": 0}
    byte_match = block(
        {"positional_constraint": ("string", "required"), "search_string": ("string", "required")},
        {"field_to_match": block({}, {"uri_path": block({})}), "text_transformation": transformation},
    )
    override = block(
        {"name": ("string", "required")},
        {
            "action_to_use": block(
                {}, {"count": block({}), "allow": block({}), "block": block({})}, required=True
            )
        },
    ) | {"max": 0}
    label_match = block({"scope": ("string", "required"), "key": ("string", "required")})
    either = block({}, {"label_match_statement": label_match}, required=True) | {"min": 2, "max": 0}
    return block(
        {},
        {
            "managed_rule_group_statement": block(
                {
                    "name": ("string", "required"),
                    "vendor_name": ("string", "required"),
                    "version": ("string", "optional"),
                },
                {"rule_action_override": override},
            ),
            "rate_based_statement": block(
                {
                    "limit": ("number", "required"),
                    "aggregate_key_type": ("string", "optional"),
                    "evaluation_window_sec": ("number", "optional"),
                },
                {"scope_down_statement": block({}, {"byte_match_statement": byte_match})},
            ),
            "byte_match_statement": byte_match,
            "label_match_statement": label_match,
            "or_statement": block({}, {"statement": either}),
        },
        required=True,
    )


def argument_type(kind: str, storage: str) -> object:
    if kind == "simple":
        return SCALARS.get(storage, "string")
    element = re.sub(r"(List|Map|Set)$", "", storage)
    return [kind, SCALARS.get(element, "string")]


def main() -> None:
    package = Path(sys.argv[1])
    wanted = [line for line in (HERE / "types.txt").read_text().split("\n") if line and line[0] != "#"]
    schema: dict = {"provider": PROVIDER_VERSION, "resources": {}, "data": {}}
    for name in wanted:
        folder = name.replace("data.aws_", "data-aws-").removeprefix("aws_").replace("_", "-")
        section, key = ("data", name[5:]) if name.startswith("data.") else ("resources", name)
        schema[section][key] = Package(package / "lib" / folder).resource()
    # Filled in by the service, which the package does not tell; the module reads it.
    schema["resources"]["aws_vpc"]["attributes"]["ipv6_cidr_block"]["mode"] = "optional_computed"
    rule = schema["resources"]["aws_wafv2_web_acl"]["blocks"]["rule"]["block"]
    rule["attributes"].pop("statement", None)
    rule["blocks"]["statement"] = waf_statement()
    (HERE / "schema.json").write_text(json.dumps(schema, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
