"""A stand-in for the AWS provider that knows its schema and none of its service.

It answers Terraform's plugin protocol (version 6) from `schema.json`: names, types, required and
exported attributes and blocks are those of the real provider, so validate, plan, apply and test
work without a network. What the real one would compute becomes a fixed, telling fake.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgpack
import policy
from tf import runner
from tf.gen import tfplugin_pb2 as pb
from tf.gen import tfplugin_pb2_grpc as rpc

ACCOUNT, REGION = "123456789012", "eu-central-1"
UNKNOWN = msgpack.ExtType(0, b"")
NESTING = {name.lower(): value for name, value in pb.Schema.NestedBlock.NestingMode.items()}
SCHEMA = json.loads((Path(__file__).parent / "schema.json").read_text())
FAKES = {
    "aws_caller_identity": {"account_id": ACCOUNT, "id": ACCOUNT},
    "aws_partition": {"partition": "aws", "dns_suffix": "amazonaws.com", "id": "aws"},
    "aws_elb_service_account": {"arn": "arn:aws:iam::054676820928:root", "id": "054676820928"},
    "aws_vpc": {"cidr_block": "10.0.0.0/16"},
    "aws_subnets": {"ids": ["subnet-0a", "subnet-0b"]},
}


def block(schema: dict) -> pb.Schema.Block:
    """The schema of one resource or nested block as Terraform wants to read it."""
    attributes = [
        pb.Schema.Attribute(
            name=name,
            type=json.dumps(attribute["type"]).encode(),
            required=attribute["mode"] == "required",
            optional=attribute["mode"].startswith("optional"),
            computed=attribute["mode"].endswith("computed"),
        )
        for name, attribute in sorted(schema["attributes"].items())
    ]
    nested = [
        pb.Schema.NestedBlock(
            type_name=name,
            block=block(inner["block"]),
            nesting=NESTING[inner["nesting"]],
            min_items=inner["min"] if inner["nesting"] != "single" else 0,
            max_items=inner["max"],
        )
        for name, inner in sorted(schema["blocks"].items())
    ]
    return pb.Schema.Block(attributes=attributes, block_types=nested)


def read(value: pb.DynamicValue) -> dict | None:
    return msgpack.unpackb(value.msgpack, raw=False, strict_map_key=False) if value.msgpack else None


def write(value: object) -> pb.DynamicValue:
    return pb.DynamicValue(msgpack=msgpack.packb(value))


def fake(type_name: str, name: str, type_: object, values: dict, default_region: str) -> object:
    """A value for an exported attribute: fixed for the same resource, of the right type."""
    region = plain(values.get("region")) or default_region
    seed = hashlib.sha256(
        json.dumps([type_name, plain(values)], sort_keys=True, default=str).encode()
    ).hexdigest()
    label = str(plain(values.get("name")) or plain(values.get("bucket")) or seed[:8])
    service = type_name.removeprefix("aws_").split("_")[0]
    if isinstance(type_, list):
        if type_[0] == "map":
            return plain(values.get("tags")) or {} if name == "tags_all" else {}
        if type_[0] in ("list", "set") and isinstance(type_[1], list) and type_[1][0] == "object":
            return [{key: fake(type_name, key, inner, values, region) for key, inner in type_[1][1].items()}]
        return []
    if type_ == "number":
        return 1
    if type_ == "bool":
        return False
    special = {
        "arn": f"arn:aws:{service}:{region}:{ACCOUNT}:{label}",
        "id": f"{type_name.removeprefix('aws_')}-{label}",
        "region": region,
        "ipv6_cidr_block": "2001:db8:42::/56",
        "domain_name": str(plain(values.get("domain_name")) or f"{label}.example.com"),
    }
    if type_name == "aws_s3_bucket":
        special |= {"arn": f"arn:aws:s3:::{label}", "id": label}
    if type_name == "aws_dynamodb_table":
        special |= {"arn": f"arn:aws:dynamodb:{region}:{ACCOUNT}:table/{label}", "id": label}
    if type_name == "aws_cognito_user_pool":
        special |= {
            "id": f"{region}_{seed[:9]}",
            "arn": f"arn:aws:cognito-idp:{region}:{ACCOUNT}:userpool/{region}_{seed[:9]}",
        }
    if type_name == "aws_kms_key":
        special["arn"] = f"arn:aws:kms:{region}:{ACCOUNT}:key/{seed[:8]}-0000-4000-8000-{seed[:12]}"
    if type_name == "aws_ecs_task_definition":
        family = f"arn:aws:ecs:{region}:{ACCOUNT}:task-definition/{plain(values.get('family'))}"
        special |= {"arn": f"{family}:{int(seed[:4], 16)}", "arn_without_revision": family}
    if type_name in ("aws_iam_role", "aws_iam_policy"):
        special |= {
            "arn": f"arn:aws:iam::{ACCOUNT}:{type_name.removeprefix('aws_iam_')}/{label}",
            "id": label,
        }
    return special.get(name, f"{name}-{seed[:12]}")


def zones(config: dict, default_region: str) -> list[str]:
    """As AWS lists them for an account with a Local Zone, whose name sorts before those of the region's own."""
    region = config.get("region") or default_region
    own = [f"{region}{zone}" for zone in "abc"]
    wanted = {each["name"]: each["values"] for each in config.get("filter") or []}
    return own if wanted.get("opt-in-status") == ["opt-in-not-required"] else [f"{region}-ham-1a", *own]


def plain(value: object) -> object:
    """The value with unknown parts left out, for naming fakes."""
    if isinstance(value, msgpack.ExtType):
        return None
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value


def fill(schema: dict, values: dict, compute: object) -> dict:
    """`values` with what is computed and not given replaced by `compute(name, type)`."""
    result = dict(values)
    for name, attribute in schema["attributes"].items():
        unknown = isinstance(result.get(name), msgpack.ExtType)
        if attribute["mode"].endswith("computed") and (result.get(name) is None or unknown):
            result[name] = compute(name, attribute["type"])
        else:
            result.setdefault(name, None)
    for name, inner in schema["blocks"].items():
        value = result.get(name)
        if isinstance(value, list):
            result[name] = [
                fill(inner["block"], item, compute) if isinstance(item, dict) else item for item in value
            ]
        elif isinstance(value, dict) and inner["nesting"] == "single":
            result[name] = fill(inner["block"], value, compute)
    return result


def new_revision(type_name: str, prior: dict | None, planned: dict) -> list[pb.AttributePath]:
    """A task definition is never changed: another content is another revision, with an ARN of its own."""
    name = "container_definitions"
    if type_name != "aws_ecs_task_definition" or prior is None or prior[name] == planned[name]:
        return []
    return [pb.AttributePath(steps=[pb.AttributePath.Step(attribute_name=name)])]


class Servicer(rpc.ProviderServicer):
    """The calls that Terraform makes; every resource is planned, applied and read the same way."""

    def __init__(self, _provider: object = None) -> None:
        self.resources, self.data = SCHEMA["resources"], SCHEMA["data"]
        self.region = REGION

    def fake(self, type_name: str, values: dict) -> Callable[[str, object], object]:
        return lambda key, type_: fake(type_name, key, type_, values, self.region)

    def GetMetadata(self, request, context):
        return pb.GetMetadata.Response(
            resources=[pb.GetMetadata.ResourceMetadata(type_name=name) for name in self.resources],
            data_sources=[pb.GetMetadata.DataSourceMetadata(type_name=name) for name in self.data],
        )

    def GetProviderSchema(self, request, context):
        tags = {"attributes": {"tags": {"type": ["map", "string"], "mode": "optional"}}, "blocks": {}}
        default_tags = {"nesting": "list", "min": 0, "max": 1, "block": tags}
        config = {
            "attributes": {
                name: {"type": "bool" if name.startswith("skip") else "string", "mode": "optional"}
                for name in (
                    "region",
                    "profile",
                    "access_key",
                    "secret_key",
                    "skip_credentials_validation",
                    "skip_requesting_account_id",
                    "skip_metadata_api_check",
                    "skip_region_validation",
                )
            },
            "blocks": {"default_tags": default_tags},
        }
        schemas = lambda types: {
            name: pb.Schema(version=0, block=block(body)) for name, body in types.items()
        }
        return pb.GetProviderSchema.Response(
            provider=pb.Schema(version=0, block=block(config)),
            resource_schemas=schemas(self.resources),
            data_source_schemas=schemas(self.data),
        )

    def ValidateProviderConfig(self, request, context):
        return pb.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request, context):
        return pb.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, request, context):
        return pb.ValidateDataResourceConfig.Response()

    def ConfigureProvider(self, request, context):
        self.region = plain(read(request.config).get("region")) or REGION
        return pb.ConfigureProvider.Response()

    def UpgradeResourceState(self, request, context):
        state = json.loads(request.raw_state.json)
        return pb.UpgradeResourceState.Response(upgraded_state=write(state))

    def PlanResourceChange(self, request, context):
        proposed, prior = read(request.proposed_new_state), read(request.prior_state)
        if proposed is None:
            return pb.PlanResourceChange.Response(planned_state=request.proposed_new_state)
        schema = self.resources[request.type_name]
        if prior is None:
            planned = fill(schema, proposed, lambda _name, _type: UNKNOWN)
        else:
            planned = proposed
        return pb.PlanResourceChange.Response(
            planned_state=write(planned), requires_replace=new_revision(request.type_name, prior, planned)
        )

    def ApplyResourceChange(self, request, context):
        planned = read(request.planned_state)
        if planned is None:
            return pb.ApplyResourceChange.Response(new_state=request.planned_state)
        name = request.type_name
        done = fill(self.resources[name], planned, self.fake(name, planned))
        if name == "aws_ecs_service" and os.environ.get("STUB_DEPLOYMENTS") == "rolled back":
            done["task_definition"] = "arn:of:the:revision-before"
        # As of the real provider: Terraform then accepts values that are others than planned.
        return pb.ApplyResourceChange.Response(new_state=write(done), legacy_type_system=True)

    def ReadResource(self, request, context):
        return pb.ReadResource.Response(new_state=request.current_state)

    def ReadDataSource(self, request, context):
        name, config = request.type_name, read(request.config)
        if name == "aws_availability_zones":
            config["names"] = zones(config, self.region)
        if name == "aws_region":
            config["region"] = config["name"] = config.get("region") or self.region
        if name == "aws_iam_policy_document":
            config["json"] = config["minified_json"] = policy.render(config)
        config |= {key: value for key, value in FAKES.get(name, {}).items() if config.get(key) is None}
        state = fill(self.data[name], config, self.fake(name, config))
        return pb.ReadDataSource.Response(state=write(state))

    def ImportResourceState(self, request, context):
        """Of something that exists only its name is known; a plan then shows all that is to be set."""
        schema, name = self.resources[request.type_name], request.type_name
        empty = {
            name: None if inner["nesting"] == "single" else [] for name, inner in schema["blocks"].items()
        }
        state = fill(schema, empty, self.fake(name, {"name": request.id})) | {
            "id": request.id,
            "name": request.id,
        }
        imported = pb.ImportResourceState.ImportedResource(type_name=name, state=write(state))
        return pb.ImportResourceState.Response(imported_resources=[imported])

    def GetFunctions(self, request, context):
        return pb.GetFunctions.Response()

    def GetResourceIdentitySchemas(self, request, context):
        return pb.GetResourceIdentitySchemas.Response()

    def StopProvider(self, request, context):
        return pb.StopProvider.Response()


class Named:
    """What the runner asks of a provider object."""

    def full_name(self) -> str:
        return "hashicorp/aws"


def main() -> None:
    import tf.provider

    tf.provider.ProviderServicer = Servicer  # the runner's transport, our answers
    runner.run_provider(Named(), sys.argv)


if __name__ == "__main__":
    main()
