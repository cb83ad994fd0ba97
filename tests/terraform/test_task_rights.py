"""The roles of web tasks and of maintenance: what each may not do, what it needs, and that every right is used."""

from __future__ import annotations

import json

import pytest
from botocore.exceptions import ClientError

from app.auth.aws.cognito import CognitoDirectory, CognitoPool
from app.auth.aws.dynamodb import TTL_ATTRIBUTE, DynamoHostKeys
from app.auth.aws.table import DynamoTable
from app.errors import AuthError
from storage.errors import StorageError
from storage.heads.dynamodb import DynamoHeadStore, table_definition
from storage.objects.s3 import S3ObjectStore
from tests.contracts.test_host_keys import make_record
from tests.support.clock import Clock
from tests.support.records import collection_of, head_update_of, new_session
from tests.terraform import cloud as engine
from tests.terraform.cloud import is_allowed
from tests.terraform.plans import resources

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REFUSED = [
    ("s3", "list_buckets", {}),
    ("s3", "create_bucket", {"Bucket": "another-bucket"}),
    ("s3", "delete_bucket", {"Bucket": "BUCKET"}),
    ("s3", "put_bucket_policy", {"Bucket": "BUCKET", "Policy": "{}"}),
    ("s3", "delete_bucket_policy", {"Bucket": "BUCKET"}),
    ("s3", "put_bucket_versioning", {"Bucket": "BUCKET", "VersioningConfiguration": {"Status": "Suspended"}}),
    (
        "s3",
        "put_bucket_lifecycle_configuration",
        {"Bucket": "BUCKET", "LifecycleConfiguration": {"Rules": []}},
    ),
    ("s3", "put_bucket_acl", {"Bucket": "BUCKET", "ACL": "public-read"}),
    ("s3", "list_object_versions", {"Bucket": "BUCKET"}),
    ("s3", "get_object_acl", {"Bucket": "BUCKET", "Key": "v1/a"}),
    ("s3", "put_object_acl", {"Bucket": "BUCKET", "Key": "v1/a", "ACL": "public-read"}),
    ("s3", "put_object", {"Bucket": "another-bucket", "Key": "v1/a", "Body": b""}),
    ("s3", "get_object", {"Bucket": "another-bucket", "Key": "v1/a"}),
    ("s3", "list_objects_v2", {"Bucket": "another-bucket"}),
    ("dynamodb", "scan", {"TableName": "TABLE"}),
    ("dynamodb", "delete_table", {"TableName": "TABLE"}),
    ("dynamodb", "update_table", {"TableName": "TABLE", "DeletionProtectionEnabled": False}),
    ("dynamodb", "create_backup", {"TableName": "TABLE", "BackupName": "copy"}),
    ("dynamodb", "list_tables", {}),
    ("cognito-idp", "admin_create_user", {"UserPoolId": "POOL", "Username": "mallory"}),
    ("cognito-idp", "admin_delete_user", {"UserPoolId": "POOL", "Username": "alice"}),
    (
        "cognito-idp",
        "admin_set_user_password",
        {"UserPoolId": "POOL", "Username": "alice", "Password": "Mallory-1234"},
    ),
    ("cognito-idp", "describe_user_pool_client", {"UserPoolId": "POOL", "ClientId": "x"}),
    ("cognito-idp", "delete_user_pool", {"UserPoolId": "POOL"}),
    ("iam", "list_roles", {}),
    ("iam", "create_access_key", {}),
    ("sts", "assume_role", {"RoleArn": "arn:aws:iam::123456789012:role/admin", "RoleSessionName": "other"}),
]
BY_ROLE = {
    "web": [
        ("s3", "delete_object", {"Bucket": "BUCKET", "Key": "v1/a"}),
        ("cognito-idp", "list_users", {"UserPoolId": "POOL"}),
    ],
    "maintain": [
        (
            "cognito-idp",
            "admin_initiate_auth",
            {"UserPoolId": "POOL", "ClientId": "CLIENT", "AuthFlow": "ADMIN_USER_PASSWORD_AUTH"},
        ),
    ],
}
OTHER_PLACES = [
    ("dynamodb:GetItem", "arn:aws:dynamodb:eu-central-1:123456789012:table/another"),
    ("dynamodb:PutItem", "arn:aws:dynamodb:eu-central-1:210987654321:table/ankisyncd-heads"),
    ("dynamodb:UpdateItem", "arn:aws:dynamodb:eu-central-1:123456789012:table/ankisyncd-heads-copy"),
    ("s3:GetObject", "arn:aws:s3:::another-bucket/v1/a"),
    ("s3:ListBucket", "arn:aws:s3:::another-bucket"),
    (
        "cognito-idp:AdminInitiateAuth",
        "arn:aws:cognito-idp:eu-central-1:123456789012:userpool/eu-central-1_other",
    ),
    ("secretsmanager:GetSecretValue", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:ankisyncd"),
    ("kms:Decrypt", "arn:aws:kms:eu-central-1:123456789012:key/1"),
]


@pytest.mark.parametrize(
    ("role", "service", "operation", "parameters"),
    [(role, *call) for role, calls in BY_ROLE.items() for call in REFUSED + calls],
    ids=lambda value: str(value)[:40],
)
def test_what_a_role_has_no_business_with_is_denied(cloud, role, service, operation, parameters):
    real = {"BUCKET": cloud.bucket, "TABLE": cloud.table, "POOL": cloud.pool_id, "CLIENT": cloud.client_id}
    given = {
        name: real.get(value, value) if isinstance(value, str) else value
        for name, value in parameters.items()
    }
    keys = cloud.role if role == "web" else cloud.maintain
    with pytest.raises(ClientError) as caught:
        getattr(engine.client(service, cloud.endpoint, keys), operation)(**given)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


@pytest.mark.parametrize(("action", "resource"), OTHER_PLACES)
def test_the_same_action_on_another_resource_is_refused(cloud, action, resource):
    """moto weighs resources for S3 alone, so the document is read here as IAM reads it."""
    assert not is_allowed(cloud.policy, action, resource)
    assert not is_allowed(cloud.maintain_policy, action, resource)


def test_web_tasks_may_not_delete_objects_in_any_way(cloud):
    """moto lets a deletion of many pass, so this too is read."""
    assert not is_allowed(cloud.policy, "s3:DeleteObject", f"arn:aws:s3:::{cloud.bucket}/v1/a")
    assert is_allowed(cloud.maintain_policy, "s3:DeleteObject", f"arn:aws:s3:::{cloud.bucket}/v1/a")


def test_a_wrong_secret_opens_nothing(cloud):
    forged = engine.Keys(cloud.role.access_key, "wrong" * 8, cloud.role.token)
    with pytest.raises(ClientError) as caught:
        engine.client("s3", cloud.endpoint, forged).list_objects_v2(Bucket=cloud.bucket)
    assert caught.value.response["Error"]["Code"] == "SignatureDoesNotMatch"


def test_every_right_of_web_tasks_is_used_and_no_use_lacks_its_right(cloud, tmp_path):
    cloud.calls.clear()
    _use_the_bucket(cloud, None, tmp_path)
    _use_the_table(cloud, None)
    _use_the_pool(cloud)
    assert {action for action, _ in cloud.calls} == granted(cloud.policy)


def test_every_right_of_maintenance_is_used_and_no_use_lacks_its_right(cloud, tmp_path):
    cloud.calls.clear()
    objects = _use_the_bucket(cloud, cloud.maintain, tmp_path)
    objects.delete(["v1/rights/a", "v1/rights/large"])
    _use_the_table(cloud, cloud.maintain)
    pool = cloud.client("cognito-idp", keys=cloud.maintain)
    assert [user["Username"] for user in pool.list_users(UserPoolId=cloud.pool_id)["Users"]] == ["alice"]
    assert {action for action, _ in cloud.calls} == granted(cloud.maintain_policy)


def granted(policy: dict) -> set[str]:
    actions = [statement["Action"] for statement in policy["Statement"]]
    return {action for each in actions for action in ([each] if isinstance(each, str) else each)}


def _use_the_bucket(cloud, keys, tmp_path) -> S3ObjectStore:
    client = cloud.client("s3", keys=keys)
    objects = S3ObjectStore(client, cloud.bucket, "")
    objects.put("v1/rights/a", b"content")
    assert objects.read("v1/rights/a") == b"content"
    assert next(stat.key for stat in objects.list("v1/rights")) == "v1/rights/a"
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate((64 << 20) + 1)
    objects.put_file("v1/rights/large", large)
    assert objects.find("v1/rights/large").size_bytes == (64 << 20) + 1

    def cut(request, **_):
        raise ConnectionError

    client.meta.events.register_first("before-send.s3.UploadPart", cut)
    with pytest.raises((StorageError, ConnectionError)):
        objects.put_file("v1/rights/cut", large)
    client.meta.events.unregister("before-send.s3.UploadPart", cut)
    return objects


def _use_the_table(cloud, keys) -> None:
    client = cloud.client("dynamodb", keys=keys)
    heads, database = DynamoHeadStore(client, cloud.table), collection_of("u-rights")
    head = heads.open_session(database, new_session("session"))
    heads.advance_head(database, head_update_of(0, head.token))
    assert database in list(heads.list())
    heads.delete(database)
    clock = Clock()
    hostkeys, record = DynamoHostKeys(DynamoTable(client, cloud.table), clock), make_record(clock)
    hostkeys.add(record)
    assert hostkeys.find(record.hash) == record
    assert record in list(hostkeys.list())
    assert list(hostkeys.list(record.user)) == [record]
    assert hostkeys.revoke_all(record.user) == 1
    # what a start looks at, and what maintenance reads many heads with
    assert client.describe_table(TableName=cloud.table)["Table"]["TableName"] == cloud.table
    assert client.batch_get_item(RequestItems={cloud.table: {"Keys": [{"pk": {"S": "none"}}]}})["Responses"]


def _use_the_pool(cloud) -> None:
    directory = CognitoDirectory(
        cloud.client("cognito-idp"), CognitoPool(cloud.pool_id, cloud.client_id, cloud.client_secret)
    )
    identity = directory.verify("alice", engine.PASSWORD)
    assert directory.confirm(identity) == identity
    with pytest.raises(AuthError):
        directory.verify("nobody", "wrong-password")
    with pytest.raises(AuthError):
        directory.verify("nobody", "wrong-password/123456")
    with pytest.raises(ClientError) as caught:  # the server's answer to a code; moto knows no such session
        cloud.client("cognito-idp").admin_respond_to_auth_challenge(
            UserPoolId=cloud.pool_id,
            ClientId=cloud.client_id,
            ChallengeName="SOFTWARE_TOKEN_MFA",
            Session="x" * 20,
            ChallengeResponses={"USERNAME": "alice"},
        )
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_the_bucket_and_the_table_are_as_declared(cloud, applied):
    table = engine.client("dynamodb", cloud.endpoint, cloud.role).describe_table(TableName=cloud.table)[
        "Table"
    ]
    assert {index["IndexName"] for index in table["GlobalSecondaryIndexes"]} == {"listing"}
    assert table["DeletionProtectionEnabled"]
    assert json.dumps(cloud.policy).count("arn:aws:s3:::" + cloud.bucket) == 2


def test_the_table_is_the_one_that_init_makes(applied):
    (table,) = [found["values"] for found in resources(applied) if found["type"] == "aws_dynamodb_table"]
    made = table_definition(table["name"])
    assert made["KeySchema"] == [{"AttributeName": table["hash_key"], "KeyType": "HASH"}]
    assert not table.get("range_key")
    declared = {attribute["name"]: attribute["type"] for attribute in table["attribute"]}
    assert declared == {each["AttributeName"]: each["AttributeType"] for each in made["AttributeDefinitions"]}
    (index,), (made_index,) = table["global_secondary_index"], made["GlobalSecondaryIndexes"]
    assert index["name"] == made_index["IndexName"]
    assert [index["hash_key"], index["range_key"]] == [
        part["AttributeName"] for part in made_index["KeySchema"]
    ]
    assert {"ProjectionType": index["projection_type"]} == made_index["Projection"]
    (ends,) = table["ttl"]
    assert (ends["enabled"], ends["attribute_name"]) == (True, TTL_ATTRIBUTE)
    assert table["billing_mode"] == made["BillingMode"]


def test_the_bucket_refuses_everybody_without_a_current_tls(applied, cloud):
    """moto cannot weigh conditions, so the document is read."""
    (document,) = [
        found["values"]["policy"] for found in resources(applied) if found["type"] == "aws_s3_bucket_policy"
    ]
    refused = {}
    for statement in json.loads(document)["Statement"]:
        assert statement["Effect"] == "Deny"
        assert statement["Principal"] in ("*", {"AWS": "*"})
        assert statement["Action"] == "s3:*"
        assert set(statement["Resource"]) == {
            f"arn:aws:s3:::{cloud.bucket}",
            f"arn:aws:s3:::{cloud.bucket}/*",
        }
        refused |= statement["Condition"]
    assert refused == {"Bool": {"aws:SecureTransport": "false"}, "NumericLessThan": {"s3:TlsVersion": "1.2"}}
