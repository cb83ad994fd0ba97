"""What an applied plan declares, made in moto: table, bucket, user pool, client and the server's role."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import urllib.request
from dataclasses import dataclass, field, replace

import boto3
from botocore.config import Config

from tests.terraform.plans import resources

REGION = "eu-central-1"
PASSWORD = "Correct-Horse-1"
"""Of alice, who is in the pool."""


@dataclass(frozen=True)
class Keys:
    access_key: str = "admin"
    secret_key: str = "admin"
    token: str | None = None


@dataclass(frozen=True)
class Cloud:
    """An engine with a service's resources in it; `role` has the rights of a task and no more."""

    endpoint: str
    bucket: str
    table: str
    pool_id: str
    pool_arn: str
    client_id: str
    client_secret: str
    role: Keys
    """Of a web task."""
    policy: dict
    """The web role's document, with the engine's own ARNs."""
    maintain: Keys
    """Of the maintenance task and of administrators' commands."""
    maintain_policy: dict

    calls: set[tuple[str, str]] = field(default_factory=set)
    """(action, resource) of every call that a role's clients made; each is weighed as it is made."""

    def client(self, service: str, config: Config | None = None, keys: Keys | None = None):
        """A client with a role's rights, by default the web tasks'; what it asks for is noted."""
        found = client(service, self.endpoint, keys or self.role, config)
        prefix = f"provide-client-params.{service}"
        if keys in (None, self.maintain):
            policy = self.policy if keys is None else self.maintain_policy
            found.meta.events.register(
                prefix, lambda **call: self._note(policy, call["params"], call["model"])
            )
        return found

    def _note(self, policy: dict, params: dict, model) -> None:
        asked = needed(model.service_model.service_name, model.name, params, self.pool_arn)
        for action, resource in asked:
            assert is_allowed(policy, action, resource), f"the role may not {action} {resource}"
        self.calls.update(asked)


def client(service: str, endpoint: str, keys: Keys, config: Config | None = None, region: str = REGION):
    path_style = Config(s3={"addressing_style": "path"})
    return boto3.Session().client(
        service,
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        aws_session_token=keys.token,
        config=config.merge(path_style) if config else path_style,
    )


S3_ACTIONS = {
    "PutObject": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
    "AbortMultipartUpload": "AbortMultipartUpload",
    "GetObject": "GetObject",
    "HeadObject": "GetObject",
    "DeleteObject": "DeleteObject",
    "DeleteObjects": "DeleteObject",
    "ListObjectsV2": "ListBucket",
    "HeadBucket": "ListBucket",
}
"""Source: AWS, "Required permissions for Amazon S3 API operations"."""


def needed(service: str, operation: str, params: dict, pool_arn: str) -> list[tuple[str, str]]:
    """The rights that AWS asks for when this call is made."""
    if service == "s3":
        action, bucket = f"s3:{S3_ACTIONS[operation]}", f"arn:aws:s3:::{params['Bucket']}"
        if action == "s3:ListBucket":
            return [(action, bucket)]
        keys = (
            [item["Key"] for item in params["Delete"]["Objects"]] if "Delete" in params else [params["Key"]]
        )
        return [(action, f"{bucket}/{key}") for key in keys]
    if service == "dynamodb":
        index = f"/index/{params['IndexName']}" if "IndexName" in params else ""
        names = params.get("RequestItems") or [params["TableName"]]
        tables = f"arn:aws:dynamodb:{REGION}:123456789012:table/"
        return [(f"dynamodb:{operation}", tables + name + index) for name in names]
    if operation.startswith(("Admin", "List")):
        return [(f"cognito-idp:{operation}", pool_arn)]
    return []  # GetUser is allowed by the user's own token alone


def is_allowed(policy: dict, action: str, resource: str) -> bool:
    """IAM's rule for documents of Effect, Action and Resource alone: a Deny wins, and what is not named is denied."""
    effects = set()
    for statement in policy["Statement"]:
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource"}, "an element that this cannot weigh"
        if matches(statement["Action"], action, fold=True) and matches(statement["Resource"], resource):
            effects.add(statement["Effect"])
    return effects == {"Allow"}


def matches(patterns: str | list[str], value: str, *, fold: bool = False) -> bool:
    """`*` and `?` as IAM knows them; actions are the same in any case."""
    listed = [patterns] if isinstance(patterns, str) else patterns
    if fold:
        listed, value = [pattern.lower() for pattern in listed], value.lower()
    return any(fnmatch.fnmatchcase(value, pattern.replace("[", "[[]")) for pattern in listed)


def by_name(state: dict) -> dict[tuple[str, str], dict]:
    """The values of each resource of which there is one, by type and name."""
    return {
        (found["type"], found["name"]): found["values"]
        for found in resources(state)
        if found["mode"] == "managed" and found.get("index", 0) == 0
    }


def make(state: dict, endpoint: str) -> Cloud:
    """Make in an empty engine what the state names; from then on the engine asks for rights."""
    one = by_name(state)
    admin = {name: client(name, endpoint, Keys()) for name in ("s3", "dynamodb", "cognito-idp", "iam", "sts")}
    bucket = _bucket(admin["s3"], one)
    table = _table(admin["dynamodb"], one[("aws_dynamodb_table", "heads")])
    declared_pool = one[("aws_cognito_user_pool", "this")]
    pool = _pool(admin["cognito-idp"], declared_pool)
    app = _app_client(admin["cognito-idp"], pool["Id"], one[("aws_cognito_user_pool_client", "server")])
    admin["cognito-idp"].admin_create_user(UserPoolId=pool["Id"], Username="alice", MessageAction="SUPPRESS")
    admin["cognito-idp"].admin_set_user_password(
        UserPoolId=pool["Id"], Username="alice", Password=PASSWORD, Permanent=True
    )
    roles = _roles(admin, one, declared_pool["arn"], pool["Arn"])
    enforce(endpoint)
    return Cloud(
        endpoint, bucket, table, pool["Id"], pool["Arn"], app["ClientId"], app["ClientSecret"], **roles
    )


def applied_again(cloud: Cloud, state: dict, table: str, bucket: str) -> Cloud:
    """The same engine after another apply, which names this table and bucket: they are there already."""
    enforce(cloud.endpoint, after=1_000)
    admin = {name: client(name, cloud.endpoint, Keys()) for name in ("dynamodb", "iam", "sts")}
    one = by_name(state)
    if ("aws_dynamodb_table", "heads") in one:
        _table_settings(admin["dynamodb"], one[("aws_dynamodb_table", "heads")])
    (declared_pool,) = {
        resource
        for statement in json.loads(one[("aws_iam_role_policy", "task")]["policy"])["Statement"]
        for resource in [statement["Resource"]]
        if ":userpool/" in str(resource)
    }
    roles = _roles(admin, one, declared_pool, cloud.pool_arn)
    enforce(cloud.endpoint)
    return replace(cloud, table=table, bucket=bucket, **roles)


def _roles(admin: dict, one: dict, declared_pool: str, pool: str) -> dict[str, Keys | dict]:
    """Credentials and documents of both roles, as `Cloud` has them."""
    documents = {
        name: one[("aws_iam_role_policy", name)]["policy"].replace(declared_pool, pool)
        for name in ("task", "maintain")
    }
    keys = {
        name: _role(admin["iam"], admin["sts"], one[("aws_iam_role", name)], document)
        for name, document in documents.items()
    }
    return {
        "role": keys["task"], "policy": json.loads(documents["task"]),
        "maintain": keys["maintain"], "maintain_policy": json.loads(documents["maintain"]),
    }  # fmt: skip


def enforce(endpoint: str, after: int = 0) -> None:
    """From now on, or after so many calls, every call needs a right."""
    plain = {"content-type": "text/plain"}  # a form's body would be taken apart before it is read
    asked = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", str(after).encode(), plain)
    urllib.request.urlopen(asked, timeout=10).close()


def _bucket(s3, one: dict) -> str:
    name = one[("aws_s3_bucket", "store")]["id"]
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    versioning = one[("aws_s3_bucket_versioning", "store")]["versioning_configuration"][0]["status"]
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": versioning})
    rules = [
        _lifecycle_rule(rule) for rule in one[("aws_s3_bucket_lifecycle_configuration", "store")]["rule"]
    ]
    s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": rules})
    access = one[("aws_s3_bucket_public_access_block", "store")]
    words = {
        "BlockPublicAcls": "block_public_acls",
        "BlockPublicPolicy": "block_public_policy",
        "IgnorePublicAcls": "ignore_public_acls",
        "RestrictPublicBuckets": "restrict_public_buckets",
    }
    block = {word: access[ours] for word, ours in words.items()}
    s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=block)
    ownership = one[("aws_s3_bucket_ownership_controls", "store")]["rule"][0]["object_ownership"]
    s3.put_bucket_ownership_controls(
        Bucket=name, OwnershipControls={"Rules": [{"ObjectOwnership": ownership}]}
    )
    return name


def _lifecycle_rule(rule: dict) -> dict:
    made = {"ID": rule["id"], "Status": rule["status"], "Filter": {"Prefix": ""}}
    for part in rule["abort_incomplete_multipart_upload"]:
        made["AbortIncompleteMultipartUpload"] = {"DaysAfterInitiation": part["days_after_initiation"]}
    for part in rule["noncurrent_version_expiration"]:
        made["NoncurrentVersionExpiration"] = {"NoncurrentDays": int(part["noncurrent_days"])}
    for part in rule["expiration"]:
        made["Expiration"] = {"ExpiredObjectDeleteMarker": part["expired_object_delete_marker"]}
    return made


def _table(dynamodb, declared: dict) -> str:
    indexes = [
        {
            "IndexName": index["name"],
            "KeySchema": _key_schema(index),
            "Projection": {"ProjectionType": index["projection_type"]},
        }
        for index in declared["global_secondary_index"]
    ]
    dynamodb.create_table(
        TableName=declared["name"],
        BillingMode=declared["billing_mode"],
        KeySchema=_key_schema(declared),
        AttributeDefinitions=[
            {"AttributeName": attribute["name"], "AttributeType": attribute["type"]}
            for attribute in declared["attribute"]
        ],
        GlobalSecondaryIndexes=indexes,
    )
    _table_settings(dynamodb, declared)
    return declared["name"]


def _table_settings(dynamodb, declared: dict) -> None:
    """What a restored table does not bring with it."""
    name = declared["name"]
    dynamodb.update_table(TableName=name, DeletionProtectionEnabled=declared["deletion_protection_enabled"])
    (ttl,) = declared["ttl"]
    dynamodb.update_time_to_live(
        TableName=name,
        TimeToLiveSpecification={"Enabled": ttl["enabled"], "AttributeName": ttl["attribute_name"]},
    )
    enabled = declared["point_in_time_recovery"][0]["enabled"]
    dynamodb.update_continuous_backups(
        TableName=name, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": enabled}
    )


def _key_schema(declared: dict) -> list[dict]:
    kinds = (("hash_key", "HASH"), ("range_key", "RANGE"))
    return [{"AttributeName": declared[name], "KeyType": kind} for name, kind in kinds if declared.get(name)]


def _pool(cognito, declared: dict) -> dict:
    (policy,) = declared["password_policy"]
    made = cognito.create_user_pool(
        PoolName=declared["name"],
        AliasAttributes=sorted(declared["alias_attributes"]),
        AutoVerifiedAttributes=sorted(declared["auto_verified_attributes"]),
        MfaConfiguration=declared["mfa_configuration"],
        UsernameConfiguration={"CaseSensitive": declared["username_configuration"][0]["case_sensitive"]},
        AdminCreateUserConfig={
            "AllowAdminCreateUserOnly": declared["admin_create_user_config"][0][
                "allow_admin_create_user_only"
            ]
        },
        Policies={
            "PasswordPolicy": {
                "MinimumLength": int(policy["minimum_length"]),
                "RequireLowercase": policy["require_lowercase"],
                "RequireUppercase": policy["require_uppercase"],
                "RequireNumbers": policy["require_numbers"],
                "RequireSymbols": policy["require_symbols"],
            }
        },
    )
    return made["UserPool"]


def _app_client(cognito, pool_id: str, declared: dict) -> dict:
    units = declared["token_validity_units"][0]
    made = cognito.create_user_pool_client(
        UserPoolId=pool_id,
        ClientName=declared["name"],
        GenerateSecret=declared["generate_secret"],
        ExplicitAuthFlows=sorted(declared["explicit_auth_flows"]),
        PreventUserExistenceErrors=declared["prevent_user_existence_errors"],
        EnableTokenRevocation=declared["enable_token_revocation"],
        AccessTokenValidity=int(declared["access_token_validity"]),
        IdTokenValidity=int(declared["id_token_validity"]),
        RefreshTokenValidity=int(declared["refresh_token_validity"]),
        TokenValidityUnits={
            "AccessToken": units["access_token"], "IdToken": units["id_token"], "RefreshToken": units["refresh_token"]
        },
    )  # fmt: skip
    return made["UserPoolClient"]


def _role(iam, sts, declared: dict, document: str) -> Keys:
    name = declared["id"]
    with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=declared["assume_role_policy"])
    made = iam.get_role(RoleName=name)
    iam.put_role_policy(
        RoleName=name, PolicyName="task", PolicyDocument=json.dumps(_for_moto(json.loads(document)))
    )
    lent = sts.assume_role(RoleArn=made["Role"]["Arn"], RoleSessionName="task")["Credentials"]
    return Keys(lent["AccessKeyId"], lent["SecretAccessKey"], lent["SessionToken"])


def _for_moto(document: dict) -> dict:
    """The document as moto can weigh it; `is_allowed` weighs the real one, call by call.

    moto knows resources for S3 only and asks about `*` elsewhere, and a deletion of many objects is
    to it one on the bucket. The bucket's own policy is left out: moto would take its refusal of
    plain HTTP for one of everything.
    """
    statements = []
    for statement in document["Statement"]:
        resource, actions = statement["Resource"], statement["Action"]
        if not str(resource).startswith("arn:aws:s3:"):
            resource = "*"
        elif actions == "s3:DeleteObject":
            resource = [resource, resource.removesuffix("/*")]
        elif actions == "s3:ListBucket":  # what AWS asks for when a bucket is looked at
            actions = [actions, "s3:HeadBucket"]
        statements.append({**statement, "Action": actions, "Resource": resource})
    return {**document, "Statement": statements}
