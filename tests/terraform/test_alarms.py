"""Alarms: each looks at a metric that exists, goes to a topic it may publish to, and fires when it should."""

from __future__ import annotations

import json
import math
import re

import pytest

from tests.terraform.conftest import EXAMPLES, MODULE
from tests.terraform.plans import managed
from tests.terraform.test_log_metrics import patterns

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# The sets of dimensions with which each metric is published. With another set an alarm looks at nothing.
# Source: the metric references of the services in AWS's documentation.
LB, TARGETS = {"LoadBalancer"}, {"LoadBalancer", "TargetGroup"}
TABLE, INDEX = {"TableName"}, {"TableName", "GlobalSecondaryIndexName"}
OPERATION = {"TableName", "Operation"}
SERVICE = {"ClusterName", "ServiceName"}
CLIENT = {"UserPool", "UserPoolClient"}
DIMENSIONS = {
    ("AWS/ApplicationELB", "HTTPCode_ELB_5XX_Count"): [LB],
    ("AWS/ApplicationELB", "HTTPCode_Target_4XX_Count"): [LB, TARGETS],
    ("AWS/ApplicationELB", "HTTPCode_Target_5XX_Count"): [LB, TARGETS],
    ("AWS/ApplicationELB", "HealthyHostCount"): [TARGETS],
    ("AWS/ApplicationELB", "UnHealthyHostCount"): [TARGETS],
    ("AWS/ApplicationELB", "RequestCount"): [LB, TARGETS],
    ("AWS/ApplicationELB", "TargetResponseTime"): [LB, TARGETS],
    ("AWS/CertificateManager", "DaysToExpiry"): [{"CertificateArn"}],
    ("AWS/Cognito", "SignInSuccesses"): [CLIENT],
    ("AWS/Cognito", "SignInThrottles"): [CLIENT],
    ("AWS/Cognito", "TokenRefreshSuccesses"): [CLIENT],
    ("AWS/Cognito", "TokenRefreshThrottles"): [CLIENT],
    ("AWS/DynamoDB", "ConditionalCheckFailedRequests"): [TABLE],
    ("AWS/DynamoDB", "ConsumedReadCapacityUnits"): [TABLE, INDEX],
    ("AWS/DynamoDB", "ConsumedWriteCapacityUnits"): [TABLE, INDEX],
    ("AWS/DynamoDB", "ReadThrottleEvents"): [TABLE, INDEX],
    ("AWS/DynamoDB", "WriteThrottleEvents"): [TABLE, INDEX],
    ("AWS/DynamoDB", "ReplicationLatency"): [{"TableName", "ReceivingRegion"}],
    ("AWS/DynamoDB", "SystemErrors"): [OPERATION],
    ("AWS/DynamoDB", "ThrottledRequests"): [OPERATION],
    ("AWS/ECS", "CPUUtilization"): [{"ClusterName"}, SERVICE],
    ("AWS/ECS", "MemoryUtilization"): [{"ClusterName"}, SERVICE],
    ("AWS/S3", "BucketSizeBytes"): [{"BucketName", "StorageType"}],
    ("AWS/S3", "NumberOfObjects"): [{"BucketName", "StorageType"}],
    ("AWS/S3", "OperationsFailedReplication"): [{"SourceBucket", "DestinationBucket", "RuleId"}],
    ("AWS/SQS", "ApproximateNumberOfMessagesVisible"): [{"QueueName"}],
    ("AWS/WAFV2", "BlockedRequests"): [{"WebACL", "Rule", "Region"}],
    ("ECS/ContainerInsights", "RunningTaskCount"): [SERVICE],
}
ALWAYS = {
    "corrupt-storage", "server-errors", "backend-away", "slow", "no-task", "few-tasks", "unhealthy",
    "cpu", "memory", "maintenance-missed", "maintenance-queue", "failed-syncs", "stalled", "target-5xx",
    "table-throttled", "table-unavailable", "deployment",
}  # fmt: skip
BESIDE = {
    "minimal": {"waf-logins", "waf-labelled", "certificate", "lb-5xx", "pool-throttled"},
    "existing": {"pool-throttled"},
    "second-region": {
        "waf-logins",
        "waf-labelled",
        "certificate",
        "lb-5xx",
        "replica-failed",
        "replica-late",
    },
}


def alarms(state: dict) -> dict[str, dict]:
    """All alarms by their names without the service's."""
    found = [resource["values"] for resource in managed(state, "aws_cloudwatch_metric_alarm")]
    prefix = service_name(state) + "-"
    return {alarm["alarm_name"].removeprefix(prefix): alarm for alarm in found}


def service_name(state: dict) -> str:
    (service,) = managed(state, "aws_ecs_service")
    return service["values"]["name"]


def watched(alarm: dict) -> list[tuple[str, str, dict]]:
    """(namespace, metric, dimensions) of everything an alarm looks at."""
    parts = [metric for query in alarm["metric_query"] or [] for metric in query["metric"]]
    return [(part["namespace"], part["metric_name"], part["dimensions"] or {}) for part in parts or [alarm]]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_alarm_looks_at_a_metric_that_exists(states, example):
    state = states[example]
    counted = {
        (part["namespace"], part["name"])
        for resource in managed(state, "aws_cloudwatch_log_metric_filter")
        for part in resource["values"]["metric_transformation"]
    }
    looked_at = 0
    for name, alarm in alarms(state).items():
        for namespace, metric, dimensions in watched(alarm):
            looked_at += 1
            assert all(dimensions.values()), name
            if not namespace.startswith(("AWS/", "ECS/")):
                assert (namespace, metric) in counted and not dimensions, name
            else:
                assert set(dimensions) in DIMENSIONS[namespace, metric], name
    assert looked_at > 25


@pytest.mark.parametrize("example", EXAMPLES)
def test_everything_on_the_dashboard_exists(states, example):
    (dashboard,) = managed(states[example], "aws_cloudwatch_dashboard")
    own = set(patterns()) | {"meta-ms"}
    shown = [
        metric
        for widget in json.loads(dashboard["values"]["dashboard_body"])["widgets"]
        for metric in widget["properties"]["metrics"]
    ]
    for namespace, metric, *dimensions in shown:
        if namespace.startswith("AWS/"):
            assert set(dimensions[::2]) in DIMENSIONS[namespace, metric], metric
            assert all(dimensions[1::2]), metric
        else:
            assert metric in own and not dimensions
    assert {"AWS/WAFV2", "AWS/Cognito", "AWS/S3"} <= {metric[0] for metric in shown}


@pytest.mark.parametrize("example", BESIDE)
def test_an_example_has_the_alarms_that_suit_it(states, example):
    assert set(alarms(states[example])) == ALWAYS | BESIDE[example]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_alarm_goes_to_a_topic_that_it_may_publish_to(states, example):
    """The managed key alias/aws/sns lets no alarm through, and its policy cannot be changed."""
    state = states[example]
    policies = {key["values"]["arn"]: key["values"]["policy"] for key in managed(state, "aws_kms_key")}
    topics = {
        topic["values"]["arn"]: topic["values"]["kms_master_key_id"]
        for topic in managed(state, "aws_sns_topic")
    }
    given = {"arn:aws:sns:eu-central-1:123456789012:operations"} if example == "existing" else set()
    for name, alarm in alarms(state).items():
        assert alarm["alarm_actions"], name
        for topic in alarm["alarm_actions"]:
            assert topic in set(topics) | given, name
    for key in topics.values():
        assert key is None or allows(
            policies[key], "cloudwatch.amazonaws.com", "kms:GenerateDataKey*", "kms:Decrypt"
        )
        assert key is None or allows(
            policies[key], "events.amazonaws.com", "kms:GenerateDataKey*", "kms:Decrypt"
        )
    for policy in managed(state, "aws_sns_topic_policy"):
        for publisher in ("cloudwatch.amazonaws.com", "events.amazonaws.com", "budgets.amazonaws.com"):
            assert allows(policy["values"]["policy"], publisher, "sns:Publish")


def allows(document: str, service: str, *actions: str) -> bool:
    granted = set()
    for statement in json.loads(document)["Statement"]:
        services = statement["Principal"].get("Service", [])
        if service in ([services] if isinstance(services, str) else services):
            listed = statement["Action"]
            granted |= {listed} if isinstance(listed, str) else set(listed)
    return set(actions) <= granted


def test_a_day_without_maintenance_is_an_alarm_also_when_nothing_is_written(states):
    """A night's run ends up to an hour later than the night before: 24 hours would be too short."""
    alarm = alarms(states["minimal"])["maintenance-missed"]
    assert alarm["treat_missing_data"] == "breaching"
    window_s = alarm["period"] * alarm["evaluation_periods"]
    assert 26 * 3600 < window_s <= 7 * 86400  # CloudWatch's most for periods of an hour
    assert alarm["period"] >= 3600


def test_no_task_is_an_alarm_also_when_the_load_balancer_says_nothing(states):
    found = alarms(states["minimal"])
    assert {found[name]["treat_missing_data"] for name in ("no-task", "few-tasks")} == {"breaching"}


MAINTENANCE = {
    "clusterArn": "CLUSTER", "group": "family:ankisyncd-maintain", "lastStatus": "STOPPED",
    "stopCode": "EssentialContainerExited", "containers": [{"exitCode": 1}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, True),
        ({"containers": [{"exitCode": 137}]}, True),
        ({"containers": [{"exitCode": 0}]}, False),
        ({"containers": [{}], "stopCode": "TaskFailedToStart"}, True),
        ({"lastStatus": "RUNNING"}, False),
        ({"group": "service:ankisyncd"}, False),
    ],
)
def test_a_maintenance_task_that_fails_is_told(states, change, told):
    state = states["minimal"]
    (rule,) = managed(state, "aws_cloudwatch_event_rule")
    (cluster,) = managed(state, "aws_ecs_cluster")
    (target,) = managed(state, "aws_cloudwatch_event_target")
    (topic,) = managed(state, "aws_sns_topic")
    detail = MAINTENANCE | {"clusterArn": cluster["values"]["arn"]} | change
    event = {"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": detail}
    assert matches(json.loads(rule["values"]["event_pattern"]), event) == told
    assert target["values"]["arn"] == topic["values"]["arn"]
    assert target["values"]["rule"] == rule["values"]["name"]


def matches(pattern: dict, event: dict) -> bool:
    """EventBridge's rule language as far as it is used: values, anything-but, $or; lists match by any element."""
    for name, wanted in pattern.items():
        if name == "$or":
            if not any(matches(one, event) for one in wanted):
                return False
        elif isinstance(wanted, dict):
            inner = event.get(name, {})
            if not any(matches(wanted, one) for one in (inner if isinstance(inner, list) else [inner])):
                return False
        elif not any(_fits(one, event.get(name)) for one in wanted):
            return False
    return True


def _fits(wanted: object, value: object) -> bool:
    if isinstance(wanted, dict):
        return value is not None and value not in wanted["anything-but"]
    return value == wanted


# Counts of one period -> does it fire? A group of fifty begins some ten syncs in a quarter of an hour.
FORMULAS = [
    ("failed-syncs", {"begun": 10, "failed": 0}, False),
    ("failed-syncs", {"begun": 10, "failed": 1}, False),
    ("failed-syncs", {"begun": 10, "failed": 3}, True),
    ("failed-syncs", {"begun": 0, "failed": 3}, True),
    ("failed-syncs", {"begun": 2000, "failed": 20}, False),
    ("failed-syncs", {"begun": 2000, "failed": 900}, True),
    ("stalled", {"started": 5, "finished": 0}, True),
    ("stalled", {"started": 5, "finished": 1}, False),
    ("stalled", {"started": 0, "finished": 0}, False),
    ("stalled", {}, False),
    ("target-5xx", {"requests": 60, "errors": 7}, True),
    ("target-5xx", {"requests": 60, "errors": 2}, False),
    ("target-5xx", {"requests": 60000, "errors": 60}, False),
    ("lb-5xx", {"errors": 3}, True),
    ("lb-5xx", {"requests": 500, "errors": 3}, False),
    ("table-throttled", {"writes": 8, "index_writes": 4}, True),
    ("table-throttled", {"writes": 8}, False),
    ("table-unavailable", {"updateitem": 1}, True),
    ("table-unavailable", {}, False),
    ("pool-throttled", {"refreshes": 1}, True),
]


@pytest.mark.parametrize(("name", "counts", "fires"), FORMULAS)
def test_alarms_on_shares_fire_for_fifty_users_and_for_fifty_thousand(states, name, counts, fires):
    alarm = alarms(states["minimal"])[name]
    queries = {query["id"]: query for query in alarm["metric_query"]}
    formula = queries.pop("value")
    assert formula["return_data"] and len(queries) <= 9
    assert set(counts) <= set(queries)
    value = evaluate(formula["expression"], {name: counts.get(name, math.nan) for name in queries})
    assert (value > alarm["threshold"]) == fires
    assert alarm["comparison_operator"] == "GreaterThanThreshold"


def evaluate(expression: str, counts: dict[str, float]) -> float:
    """CloudWatch's metric math for one period, as far as it is used; a metric without a value is NaN."""

    def fill(value, default):
        values = value if isinstance(value, list) else [value]
        filled = [default if math.isnan(one) else one for one in values]
        return filled if isinstance(value, list) else filled[0]

    functions = {
        "IF": lambda condition, yes, no: yes if condition else no,
        "FILL": fill,
        "MAX": lambda values: max(values) or math.nan,
        "SUM": sum,
        "METRICS": lambda: list(counts.values()),
    }
    return eval(expression.replace(" AND ", " and "), {"__builtins__": {}}, functions | counts)


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_deployment_is_rolled_back_by_logged_500s_alone(states, example):
    """Whatever a client can cause, such as 502 or 504 for a body that it never ends, must not roll anything back."""
    (service,) = managed(states[example], "aws_ecs_service")
    (alarm,) = service["values"]["alarms"]
    name = service_name(states[example])
    assert alarm["alarm_names"] == [f"{name}-deployment"]
    assert watched(alarms(states[example])["deployment"]) == [(name, "server-errors", {})]
    assert patterns()["server-errors"] == '{ $.event = "request" && $.status = 500 }'


def test_the_readme_says_what_each_alarm_asks_for(states):
    text = (MODULE / "README.md").read_text()
    (table,) = re.findall(r"^\| alarm \|.*?\n\n", text, re.M | re.S)
    told = {
        name
        for row in table.strip().splitlines()[2:]
        for name in re.findall(r"`([\w-]+)`", row.split("|")[1])
    }
    assert told == set().union(*(alarms(states[example]) for example in EXAMPLES))
