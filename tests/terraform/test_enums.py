"""Words that the schema leaves free, against the models of the services themselves."""

from __future__ import annotations

import botocore.session
import pytest

from tests.terraform.conftest import EXAMPLES
from tests.terraform.plans import resources

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# resource type, path to the value, service, shape of botocore's model
ENUMS = [
    ("aws_dynamodb_table", "billing_mode", "dynamodb", "BillingMode"),
    ("aws_dynamodb_table", "attribute.type", "dynamodb", "ScalarAttributeType"),
    ("aws_s3_bucket_versioning", "versioning_configuration.status", "s3", "BucketVersioningStatus"),
    ("aws_s3_bucket_ownership_controls", "rule.object_ownership", "s3", "ObjectOwnership"),
    (
        "aws_s3_bucket_server_side_encryption_configuration",
        "rule.apply_server_side_encryption_by_default.sse_algorithm",
        "s3",
        "ServerSideEncryption",
    ),
    ("aws_s3_bucket_lifecycle_configuration", "rule.status", "s3", "ExpirationStatus"),
    ("aws_lb", "load_balancer_type", "elbv2", "LoadBalancerTypeEnum"),
    ("aws_lb", "ip_address_type", "elbv2", "IpAddressType"),
    ("aws_lb_listener_rule", "action.type", "elbv2", "ActionTypeEnum"),
    ("aws_dynamodb_table", "stream_view_type", "dynamodb", "StreamViewType"),
    ("aws_s3_bucket_replication_configuration", "rule.status", "s3", "ReplicationRuleStatus"),
    ("aws_budgets_budget", "budget_type", "budgets", "BudgetType"),
    ("aws_budgets_budget", "time_unit", "budgets", "TimeUnit"),
    ("aws_budgets_budget", "notification.notification_type", "budgets", "NotificationType"),
    ("aws_budgets_budget", "notification.comparison_operator", "budgets", "ComparisonOperator"),
    ("aws_budgets_budget", "notification.threshold_type", "budgets", "ThresholdType"),
    (
        "aws_ecs_cluster",
        "configuration.execute_command_configuration.logging",
        "ecs",
        "ExecuteCommandLogging",
    ),
    ("aws_cloudwatch_log_metric_filter", "metric_transformation.unit", "logs", "StandardUnit"),
    (
        "aws_cognito_user_pool",
        "email_configuration.email_sending_account",
        "cognito-idp",
        "EmailSendingAccountType",
    ),
    ("aws_cognito_user_pool_client", "allowed_oauth_flows", "cognito-idp", "OAuthFlowType"),
    (
        "aws_wafv2_web_acl",
        "rule.statement.or_statement.statement.label_match_statement.scope",
        "wafv2",
        "LabelMatchScope",
    ),
    ("aws_lb_listener", "protocol", "elbv2", "ProtocolEnum"),
    ("aws_lb_listener", "default_action.type", "elbv2", "ActionTypeEnum"),
    ("aws_lb_target_group", "protocol", "elbv2", "ProtocolEnum"),
    ("aws_lb_target_group", "target_type", "elbv2", "TargetTypeEnum"),
    ("aws_acm_certificate", "validation_method", "acm", "ValidationMethod"),
    ("aws_route53_record", "type", "route53", "RRType"),
    ("aws_ecs_task_definition", "network_mode", "ecs", "NetworkMode"),
    ("aws_ecs_task_definition", "requires_compatibilities", "ecs", "Compatibility"),
    ("aws_ecs_task_definition", "runtime_platform.cpu_architecture", "ecs", "CPUArchitecture"),
    ("aws_ecs_task_definition", "runtime_platform.operating_system_family", "ecs", "OSFamily"),
    ("aws_ecs_service", "launch_type", "ecs", "LaunchType"),
    ("aws_ecs_service", "propagate_tags", "ecs", "PropagateTags"),
    ("aws_ecs_service", "availability_zone_rebalancing", "ecs", "AvailabilityZoneRebalancing"),
    ("aws_ecr_repository", "image_tag_mutability", "ecr", "ImageTagMutability"),
    ("aws_ecr_repository", "encryption_configuration.encryption_type", "ecr", "EncryptionType"),
    ("aws_cognito_user_pool", "mfa_configuration", "cognito-idp", "UserPoolMfaType"),
    ("aws_cognito_user_pool", "deletion_protection", "cognito-idp", "DeletionProtectionType"),
    ("aws_cognito_user_pool", "user_pool_tier", "cognito-idp", "UserPoolTierType"),
    ("aws_cognito_user_pool", "alias_attributes", "cognito-idp", "AliasAttributeType"),
    ("aws_cognito_user_pool", "auto_verified_attributes", "cognito-idp", "VerifiedAttributeType"),
    ("aws_cognito_user_pool_client", "explicit_auth_flows", "cognito-idp", "ExplicitAuthFlowsType"),
    (
        "aws_cognito_user_pool_client",
        "prevent_user_existence_errors",
        "cognito-idp",
        "PreventUserExistenceErrorTypes",
    ),
    ("aws_cognito_user_pool_client", "token_validity_units.access_token", "cognito-idp", "TimeUnitsType"),
    ("aws_appautoscaling_target", "service_namespace", "application-autoscaling", "ServiceNamespace"),
    ("aws_appautoscaling_target", "scalable_dimension", "application-autoscaling", "ScalableDimension"),
    ("aws_appautoscaling_policy", "policy_type", "application-autoscaling", "PolicyType"),
    (
        "aws_appautoscaling_policy",
        "target_tracking_scaling_policy_configuration.predefined_metric_specification.predefined_metric_type",
        "application-autoscaling",
        "MetricType",
    ),
    ("aws_cloudwatch_metric_alarm", "comparison_operator", "cloudwatch", "ComparisonOperator"),
    ("aws_cloudwatch_metric_alarm", "statistic", "cloudwatch", "Statistic"),
    ("aws_vpc_endpoint", "vpc_endpoint_type", "ec2", "VpcEndpointType"),
    ("aws_flow_log", "traffic_type", "ec2", "TrafficType"),
    ("aws_eip", "domain", "ec2", "DomainType"),
    ("aws_scheduler_schedule", "flexible_time_window.mode", "scheduler", "FlexibleTimeWindowMode"),
    ("aws_scheduler_schedule", "target.ecs_parameters.launch_type", "scheduler", "LaunchType"),
    ("aws_wafv2_web_acl", "scope", "wafv2", "Scope"),
    (
        "aws_wafv2_web_acl",
        "rule.statement.rate_based_statement.aggregate_key_type",
        "wafv2",
        "RateBasedStatementAggregateKeyType",
    ),
    (
        "aws_wafv2_web_acl",
        "rule.statement.rate_based_statement.scope_down_statement.byte_match_statement.positional_constraint",
        "wafv2",
        "PositionalConstraint",
    ),
    (
        "aws_wafv2_web_acl",
        "rule.statement.rate_based_statement.scope_down_statement.byte_match_statement.text_transformation.type",
        "wafv2",
        "TextTransformationType",
    ),
]


def values_at(value, path):
    """All strings at a path; lists on the way are entered."""
    if value is None:
        return []
    if isinstance(value, list):
        return [found for item in value for found in values_at(item, path)]
    if not path:
        return [value]
    return values_at(value.get(path[0]), path[1:])


@pytest.mark.parametrize(("type_name", "path", "service", "shape"), ENUMS, ids=str)
def test_words_are_known_to_the_service(plans, type_name, path, service, shape):
    allowed = set(botocore.session.get_session().get_service_model(service).shape_for(shape).enum)
    found = {
        value
        for plan in (plans[example] for example in EXAMPLES)
        for resource in resources(plan)
        if resource["type"] == type_name
        for value in values_at(resource["values"], path.split("."))
    }
    assert found, f"no example sets {type_name}.{path}"
    assert found <= allowed
