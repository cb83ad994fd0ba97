"""What a schema cannot tell, as tables: answers of the web ACL, task sizes, who may do what, and what waits for what."""

from __future__ import annotations

import json
import re
import urllib.parse

import botocore.session
import pytest

from tests.terraform.cloud import is_allowed
from tests.terraform.conftest import EXAMPLES, MINIMAL, MODULE
from tests.terraform.plans import managed, resources

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
IMAGE = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/ankisyncd:0.1.0"
KEY = "arn:aws:kms:eu-central-1:123456789012:key/1"


@pytest.fixture(scope="module")
def plan_of(terraform):
    """The plan of the module itself with some variables, as JSON."""

    def plan(**given: object) -> dict:
        values = {name: MINIMAL[name] for name in ("domain_name", "zone_id")} | {"image": IMAGE} | given
        (terraform.folder / "given.tfvars.json").write_text(json.dumps(values))
        terraform("plan", "-out=given", "-var-file=given.tfvars.json")
        return json.loads(terraform("show", "-json", "given"))

    return plan


# The web ACL -----------------------------------------------------------------------------------------------


def rules(state: dict) -> dict[str, dict]:
    (acl,) = managed(state, "aws_wafv2_web_acl")
    return {rule["name"]: rule for rule in acl["values"]["rule"]}


@pytest.mark.parametrize("example", ["minimal", "complete"])
def test_no_answer_of_the_web_acl_logs_a_device_out_or_makes_it_sync_in_full(states, example):
    """403 is taken for a wrong password, 400 for a damaged collection, and 403 is what a plain block answers."""
    answers = {}
    for name, rule in rules(states[example]).items():
        for action in rule["action"]:
            for block in action["block"]:
                (answer,) = block["custom_response"]
                answers[name] = answer["response_code"]
        for override in rule["override_action"]:  # of a managed group, whose own actions are plain blocks
            assert override["count"] and not override["none"], name
    assert answers == {"logins": 429, "labelled": 503}


def test_what_managed_rules_label_is_blocked_except_for_what_they_find_in_bodies(states):
    (statement,) = rules(states["minimal"])["labelled"]["statement"]
    labels = [
        match["key"]
        for either in statement["or_statement"]
        for one in either["statement"]
        for match in one["label_match_statement"]
    ]
    assert len(labels) == 11
    assert all(label.startswith("awswaf:managed:aws:") and "_Body" not in label for label in labels)
    priorities = {name: rule["priority"] for name, rule in rules(states["minimal"]).items()}
    assert priorities["labelled"] == max(priorities.values())  # labels are there only after the groups


TRANSFORMATIONS = {
    "URL_DECODE": urllib.parse.unquote,
    "LOWERCASE": str.lower,
}


@pytest.mark.parametrize(
    ("path", "limited"),
    [
        ("/sync/hostKey", True),
        ("/sync/%68ostKey", True),
        ("/sync/host%4Bey", True),
        ("/prefix/sync/hostkey", True),
        ("/sync/meta", False),
        ("/msync/begin", False),
    ],
)
def test_logins_are_limited_however_their_path_is_written(states, path, limited):
    (statement,) = rules(states["minimal"])["logins"]["statement"]
    (scope,) = statement["rate_based_statement"][0]["scope_down_statement"]
    (match,) = scope["byte_match_statement"]
    for step in sorted(match["text_transformation"], key=lambda one: one["priority"]):
        path = TRANSFORMATIONS[step["type"]](path)
    assert match["positional_constraint"] == "ENDS_WITH"
    assert path.endswith(match["search_string"]) == limited


# Task sizes --------------------------------------------------------------------------------------------------


def test_memory_is_what_fargate_offers_for_the_cpu(terraform, tmp_path):
    """The SDK's own text of RegisterTaskDefinition has the pairs."""
    text = (MODULE / "variables.tf").read_text()
    (table,) = re.findall(r"lookup\((\{.*?\n +\}), var\.task_cpu", text, re.S)
    (tmp_path / "main.tf").write_text(f'output "pairs" {{\n  value = jsonencode({table})\n}}\n')
    terraform("apply", "-auto-approve", at=str(tmp_path))
    pairs = json.loads(json.loads(terraform("output", "-json", "pairs", at=str(tmp_path))))
    assert {int(cpu): set(memory) for cpu, memory in pairs.items()} == fargate_pairs()
    (allowed,) = re.findall(r"contains\(\[([\d, ]+)\], var\.task_cpu\)", text)
    assert {int(cpu) for cpu in allowed.split(",")} == set(fargate_pairs())


def fargate_pairs() -> dict[int, set[int]]:
    model = botocore.session.get_session().get_service_model("ecs")
    text = model.shape_for("RegisterTaskDefinitionRequest").members["memory"].documentation
    pairs = {}
    for item in re.findall(r"<li>(.*?)</li>", text, re.S):
        words = re.sub(r"<[^>]+>", "", item).replace("\u00a0", " ")
        before, cpu = re.match(r"\s*(.*?)-? ?Available cpu values: ?(\d+)", words, re.S).groups()
        steps = re.search(
            r"etween (\d+) ?(?:GB)?.*? and (\d+) ?(?:GB)?.*?in (?:increments of )?(\d+)", before
        )
        if steps:
            low, high, step = (int(number) for number in steps.groups())
            unit = 1 if low >= 1024 else 1024
            pairs[int(cpu)] = set(range(low * unit, high * unit + 1, step if step >= 1024 else step * 1024))
        else:
            pairs[int(cpu)] = {int(number) for number in re.findall(r"(\d+) \(", before)}
    return pairs


# Rollback and first start --------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_revision_before_stays_registered_for_a_rollback(states, example):
    found = {
        one["name"]: one["values"]["skip_destroy"]
        for one in managed(states[example], "aws_ecs_task_definition")
    }
    assert found == {"server": True, "maintain": True}


def test_an_apply_waits_for_its_deployment_and_fails_if_that_was_rolled_back(terraform):
    folder = terraform.copy_of("examples/minimal")
    terraform("apply", "-auto-approve", *terraform.variables("minimal"), "-var=release=0.2.0", at=folder)
    with pytest.raises(AssertionError, match="The deployment failed and was rolled back"):
        terraform(
            "apply", "-auto-approve", *terraform.variables("minimal"), "-var=release=0.3.0",
            at=folder, STUB_DEPLOYMENTS="rolled back",
        )  # fmt: skip
    # The next one tries the same release again, and says what came of it.
    terraform("apply", "-auto-approve", *terraform.variables("minimal"), "-var=release=0.3.0", at=folder)


WAITED_FOR = {
    "aws_iam_role_policy.execution", "aws_iam_role_policy.task", "aws_secretsmanager_secret_version.client",
    "aws_lb_listener.https", "aws_lb_listener_rule.this", "aws_route.internet", "aws_route.nat",
    "aws_vpc_endpoint.s3", "aws_vpc_endpoint.dynamodb", "aws_vpc_security_group_egress_rule.tasks_https",
    "aws_vpc_security_group_egress_rule.lb_to_tasks", "aws_vpc_security_group_ingress_rule.tasks_from_lb",
    "aws_route_table_association.public", "aws_route_table_association.private",
}  # fmt: skip


def test_the_service_waits_for_all_that_a_first_task_needs(plans):
    module = plans["minimal"]["configuration"]["root_module"]["module_calls"]["ankisyncd"]["module"]
    (service,) = [one for one in module["resources"] if one["address"] == "aws_ecs_service.this"]
    assert set(service["depends_on"]) == WAITED_FOR
    (schedule,) = [one for one in module["resources"] if one["address"] == "aws_scheduler_schedule.maintain"]
    assert set(schedule["depends_on"]) == {"aws_iam_role_policy.maintain", "aws_iam_role_policy.scheduler"}


# Who may do what -----------------------------------------------------------------------------------------------


def policies(state: dict) -> dict[str, dict]:
    return {one["name"]: json.loads(one["values"]["policy"]) for one in managed(state, "aws_iam_role_policy")}


def actions_of(policy: dict) -> set[str]:
    listed = [statement["Action"] for statement in policy["Statement"]]
    return {action for each in listed for action in ([each] if isinstance(each, str) else each)}


@pytest.mark.parametrize(
    ("action", "roles"),
    [
        ("s3:DeleteObject", {"maintain"}),
        ("s3:PutObject", {"task", "maintain"}),
        ("s3:ReplicateObject", {"replication"}),
        ("dynamodb:DeleteItem", {"task", "maintain"}),
        ("cognito-idp:AdminInitiateAuth", {"task"}),
        ("ecr:BatchGetImage", {"execution"}),
        ("secretsmanager:GetSecretValue", {"execution"}),
        ("iam:PassRole", {"scheduler"}),
        ("ecs:RunTask", {"scheduler"}),
        ("sqs:SendMessage", {"scheduler"}),
        ("ssmmessages:OpenDataChannel", set()),
    ],
)
def test_an_action_is_allowed_to_these_roles_only(states, action, roles):
    found = {
        name for name, policy in policies(states["second-region"]).items() if action in actions_of(policy)
    }
    assert found == roles


def test_a_shell_in_a_task_needs_rights_places_to_write_and_a_log(states):
    state = states["complete"]
    assert {"ssmmessages:OpenDataChannel", "logs:PutLogEvents"} <= actions_of(policies(state)["task"])
    (service,) = managed(state, "aws_ecs_service")
    assert service["values"]["enable_execute_command"]
    (definition,) = [
        one["values"] for one in managed(state, "aws_ecs_task_definition") if one["name"] == "server"
    ]
    (container,) = json.loads(definition["container_definitions"])
    writable = {mount["containerPath"] for mount in container["mountPoints"]}
    assert {"/managed-agents", "/var/lib/amazon/ssm", "/var/log/amazon/ssm", "/data"} == writable
    assert container["readonlyRootFilesystem"]
    assert {mount["sourceVolume"] for mount in container["mountPoints"]} == {
        one["name"] for one in definition["volume"]
    }


@pytest.mark.parametrize("example", ["complete", "existing"])
def test_a_key_of_ours_is_usable_by_every_role_that_meets_it(states, example):
    """The scheduler reads an encrypted schedule with its own role."""
    state = states[example]
    keys = [one["values"]["arn"] for one in managed(state, "aws_kms_key")]
    key = (
        keys[0] if keys else "arn:aws:kms:eu-central-1:123456789012:key/6f1c2d3e-0000-4000-8000-000000000000"
    )
    found = policies(state)
    for role in ("task", "maintain", "execution", "scheduler"):
        granted = [
            one
            for one in found[role]["Statement"]
            if one["Resource"] == key and "kms:Decrypt" in actions_of({"Statement": [one]})
        ]
        assert granted, role
    (schedule,) = managed(state, "aws_scheduler_schedule")
    assert schedule["values"]["kms_key_arn"] == key


def test_maintenance_that_cannot_be_started_leaves_a_message(states):
    state = states["minimal"]
    (schedule,) = managed(state, "aws_scheduler_schedule")
    (queue,) = managed(state, "aws_sqs_queue")
    (target,) = schedule["values"]["target"]
    assert target["dead_letter_config"] == [{"arn": queue["values"]["arn"]}]
    passed = [one for one in policies(state)["scheduler"]["Statement"] if one["Action"] == "iam:PassRole"]
    (definition,) = [
        one["values"] for one in managed(state, "aws_ecs_task_definition") if one["name"] == "maintain"
    ]
    assert set(passed[0]["Resource"]) == {definition["task_role_arn"], definition["execution_role_arn"]}


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        (IMAGE, "arn:aws:ecr:eu-central-1:123456789012:repository/ankisyncd"),
        ("210987654321.dkr.ecr.eu-west-1.amazonaws.com/a/b@sha256:" + "0" * 64, "arn:aws:ecr:eu-west-1:210987654321:repository/a/b"),
        ("210987654321.dkr.ecr.eu-west-1.amazonaws.com/a:1@sha256:" + "0" * 64, "arn:aws:ecr:eu-west-1:210987654321:repository/a"),
        ("ghcr.io/someone/ankisyncd:0.1.0", None),
    ],
)  # fmt: skip
def test_the_image_can_be_pulled_from_the_registry_that_it_names(plan_of, image, repository):
    state = plan_of(image=image, create_repository=False)
    (policy,) = [
        one["values"]["statement"]
        for one in resources_of_data(state, "aws_iam_policy_document")
        if one["name"] == "execution"
    ]
    pulled = [one["resources"] for one in policy if one["sid"] == "Image"]
    assert pulled == ([[repository]] if repository else [])


def resources_of_data(plan: dict, kind: str) -> list[dict]:
    """Data sources that are read during apply are in the planned values too."""
    return [one for one in resources(plan) if one["mode"] == "data" and one["type"] == kind]


@pytest.mark.parametrize("example", ["complete", "existing"])
def test_every_role_has_the_permissions_boundary(states, example):
    roles = managed(states[example], "aws_iam_role")
    assert len(roles) >= 4
    assert all(
        one["values"]["permissions_boundary"].startswith("arn:aws:iam::123456789012:policy/") for one in roles
    )


# Composition -----------------------------------------------------------------------------------------------------


def test_nothing_that_is_passed_in_is_made(states):
    made = {one["type"] for one in managed(states["existing"])}
    assert not made & {
        "aws_lb", "aws_lb_listener", "aws_wafv2_web_acl", "aws_ecs_cluster", "aws_s3_bucket", "aws_dynamodb_table",
        "aws_cognito_user_pool", "aws_cognito_user_pool_client", "aws_secretsmanager_secret", "aws_sns_topic",
        "aws_kms_key", "aws_ecr_repository", "aws_vpc", "aws_acm_certificate", "aws_route53_record",
    }  # fmt: skip
    (rule,) = managed(states["existing"], "aws_lb_listener_rule")
    assert rule["values"]["condition"][0]["host_header"][0]["values"] == ["sync.example.com"]


def test_tasks_get_the_names_and_rights_of_what_was_passed_in(states):
    state = states["existing"]
    (definition,) = [
        one["values"] for one in managed(state, "aws_ecs_task_definition") if one["name"] == "server"
    ]
    (container,) = json.loads(definition["container_definitions"])
    environment = {pair["name"]: pair["value"] for pair in container["environment"]}
    assert environment["ANKISYNCD_S3_BUCKET"] == "platform-anki"
    assert environment["ANKISYNCD_DYNAMODB_TABLE"] == "platform-anki-heads"
    assert environment["COGNITO_USER_POOL_ID"] == "eu-central-1_AbCdEf123"
    assert environment["COGNITO_REGION"] == "eu-central-1"
    task = {"Statement": [one for one in policies(state)["task"]["Statement"] if "Condition" not in one]}
    for action, resource in [
        ("s3:PutObject", "arn:aws:s3:::platform-anki/v1/a"),
        ("dynamodb:UpdateItem", "arn:aws:dynamodb:eu-central-1:123456789012:table/platform-anki-heads"),
        (
            "cognito-idp:AdminInitiateAuth",
            "arn:aws:cognito-idp:eu-central-1:123456789012:userpool/eu-central-1_AbCdEf123",
        ),
    ]:
        assert is_allowed(task, action, resource), action


def test_all_is_made_in_the_region_that_was_asked_for(plan_of):
    """Except for what is global: roles, records, budgets."""
    planned = [
        one
        for one in resources(
            plan_of(region="eu-west-3", flow_logs=True, execute_command=True, create_kms_key=True)
        )
        if one["mode"] == "managed" and "region" in one["values"]
    ]
    assert len(planned) > 70
    assert {
        one["address"]: one["values"]["region"] for one in planned if one["values"]["region"] != "eu-west-3"
    } == {}


def test_with_a_count_of_zero_nothing_is_made(terraform, tmp_path):
    """The module has no switch `create`: it configures no provider, so `count` of the module block is that switch."""
    (tmp_path / "main.tf").write_text(
        f'module "ankisyncd" {{\n  source = "{terraform.folder}"\n  count = 0\n  domain_name = "sync.example.com"\n'
        f'  zone_id = "Z0123456789ABCDEFGHIJ"\n  image = "{IMAGE}"\n}}\n'
    )
    terraform("init", at=str(tmp_path))
    terraform("plan", "-out=plan", at=str(tmp_path))
    assert resources(json.loads(terraform("show", "-json", "plan", at=str(tmp_path)))) == []


# Network ----------------------------------------------------------------------------------------------------------


def test_subnets_are_in_zones_of_the_region_and_not_in_local_zones(states):
    zones = {one["values"]["availability_zone"] for one in managed(states["complete"], "aws_subnet")}
    assert zones == {"eu-central-1a", "eu-central-1b", "eu-central-1c"}


def test_zones_can_be_named(plan_of):
    planned = plan_of(zones=["eu-central-1b", "eu-central-1c"])
    assert {one["values"]["availability_zone"] for one in managed(planned, "aws_subnet")} == {
        "eu-central-1b",
        "eu-central-1c",
    }


def test_a_name_has_an_aaaa_record_only_where_the_load_balancer_speaks_ipv6(states):
    for example, kinds, addresses in [("minimal", {"A"}, "ipv4"), ("complete", {"A", "AAAA"}, "dualstack")]:
        records = [
            one["values"] for one in managed(states[example], "aws_route53_record") if one["name"] == "this"
        ]
        (balancer,) = managed(states[example], "aws_lb")
        assert {one["type"] for one in records} == kinds
        assert balancer["values"]["ip_address_type"] == addresses


def test_every_answer_tells_browsers_to_stay_with_https(states):
    (listener,) = managed(states["minimal"], "aws_lb_listener")
    values = listener["values"]
    assert values["routing_http_response_strict_transport_security_header_value"] == "max-age=31536000"
    assert values["routing_http_response_x_content_type_options_header_value"] == "nosniff"
    assert values["routing_http_response_x_frame_options_header_value"] == "DENY"
    assert values["routing_http_response_server_enabled"] is False


# Encryption, logs, login, second region ---------------------------------------------------------------------------


def test_a_key_of_ours_covers_everything_that_is_kept(states):
    state = states["complete"]
    (key,) = [one["values"]["arn"] for one in managed(state, "aws_kms_key")]
    groups = managed(state, "aws_cloudwatch_log_group")
    assert len(groups) == 4 and {one["values"]["kms_key_id"] for one in groups} == {key}
    (table,) = managed(state, "aws_dynamodb_table")
    assert table["values"]["server_side_encryption"] == [{"enabled": True, "kms_key_arn": key}]
    (cluster,) = managed(state, "aws_ecs_cluster")
    (configuration,) = cluster["values"]["configuration"]
    assert configuration["managed_storage_configuration"][0]["fargate_ephemeral_storage_kms_key_id"] == key
    (policy,) = [one["values"]["policy"] for one in managed(state, "aws_kms_key")]
    users = json.dumps([one["Principal"] for one in json.loads(policy)["Statement"]])
    for service in ("logs.eu-central-1", "cloudwatch", "events", "budgets", "fargate"):
        assert f"{service}.amazonaws.com" in users


def test_without_a_key_of_ours_the_table_has_the_one_that_costs_nothing(states):
    (table,) = managed(states["minimal"], "aws_dynamodb_table")
    assert table["values"]["server_side_encryption"] == [{"enabled": False, "kms_key_arn": None}]


def test_the_example_with_access_logs_lets_both_services_write_them(states):
    policies = {
        one["name"]: one["values"]["policy"] for one in managed(states["complete"], "aws_s3_bucket_policy")
    }
    writers = {one["Principal"]["Service"] for one in json.loads(policies["logs"])["Statement"]}
    assert writers == {"logdelivery.elasticloadbalancing.amazonaws.com", "logging.s3.amazonaws.com"}


def test_people_can_sign_up_without_an_administrator(states):
    state = states["complete"]
    (pool,) = [one["values"] for one in managed(state, "aws_cognito_user_pool")]
    assert not pool["admin_create_user_config"][0]["allow_admin_create_user_only"]
    assert pool["email_configuration"][0]["email_sending_account"] == "DEVELOPER"
    clients = {one["name"]: one["values"] for one in managed(state, "aws_cognito_user_pool_client")}
    assert (
        clients["server"]["generate_secret"] and not clients["server"]["allowed_oauth_flows_user_pool_client"]
    )
    assert not clients["pages"]["generate_secret"]
    assert set(clients["pages"]["explicit_auth_flows"]).isdisjoint(
        {"ALLOW_USER_PASSWORD_AUTH", "ALLOW_ADMIN_USER_PASSWORD_AUTH"}
    )
    address = state["values"]["outputs"]["login_pages"]["value"]
    found = urllib.parse.urlsplit(address)
    query = urllib.parse.parse_qs(found.query)
    assert found.netloc == "school-sync.auth.eu-central-1.amazoncognito.com"
    assert query["redirect_uri"] == clients["pages"]["callback_urls"] == ["https://sync.school.example/"]
    assert query["client_id"] == [clients["pages"]["id"]]


def test_a_second_region_has_a_copy_of_everything_that_a_standby_asks_for(states):
    state = states["second-region"]
    wanted = state["values"]["outputs"]["second_region"]["value"]
    (table,) = managed(state, "aws_dynamodb_table")
    assert [one["region_name"] for one in table["values"]["replica"]] == ["eu-west-1"]
    assert table["values"]["stream_view_type"] == "NEW_AND_OLD_IMAGES"
    copies = {
        one["values"]["id"]: one["values"]["region"]
        for one in managed(state, "aws_s3_bucket")
        if one["name"] == "replica"
    }
    assert copies == {wanted["bucket_name"]: "eu-west-1"}
    (replication,) = managed(state, "aws_s3_bucket_replication_configuration")
    assert replication["values"]["rule"][0]["delete_marker_replication"][0]["status"] == "Enabled"
    (secret,) = managed(state, "aws_secretsmanager_secret")
    assert [one["region"] for one in secret["values"]["replica"]] == ["eu-west-1"]
    (pool,) = managed(state, "aws_cognito_user_pool")
    assert pool["values"]["region"] == "eu-west-1"
    environments = {pair["name"]: pair["value"] for pair in server_environment(state)}
    assert environments["COGNITO_REGION"] == "eu-west-1" and environments["AWS_REGION"] == "eu-central-1"
    standby = (MODULE / "examples/standby/main.tf").read_text()
    assert set(wanted) - {"region", "user_pool"} <= set(re.findall(r"^  (\w+) += ", standby, re.M))


def server_environment(state: dict) -> list[dict]:
    (definition,) = [
        one["values"] for one in managed(state, "aws_ecs_task_definition") if one["name"] == "server"
    ]
    (container,) = json.loads(definition["container_definitions"])
    return container["environment"]
