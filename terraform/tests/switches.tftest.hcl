# Every switch changes what it says, and the defaults are the safe ones.

variables {
  domain_name = "sync.example.com"
  zone_id     = "Z0123456789ABCDEFGHIJ"
  image       = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/ankisyncd:0.1.0"
}

run "defaults" {
  command = plan

  assert {
    condition     = aws_lb.this[0].idle_timeout >= 120 && aws_lb_listener.https[0].port == 443 && startswith(aws_lb_listener.https[0].ssl_policy, "ELBSecurityPolicy-TLS13-1-2")
    error_message = "The load balancer must wait for silent work and speak TLS 1.2 or 1.3."
  }

  assert {
    condition     = aws_s3_bucket_public_access_block.store[0].block_public_acls && aws_s3_bucket_public_access_block.store[0].block_public_policy && aws_s3_bucket_public_access_block.store[0].ignore_public_acls && aws_s3_bucket_public_access_block.store[0].restrict_public_buckets
    error_message = "Nothing of the bucket may be public."
  }

  assert {
    condition     = aws_s3_bucket_versioning.store[0].versioning_configuration[0].status == "Enabled"
    error_message = "The bucket keeps versions."
  }

  assert {
    condition     = aws_dynamodb_table.heads[0].deletion_protection_enabled && aws_dynamodb_table.heads[0].point_in_time_recovery[0].enabled && aws_dynamodb_table.heads[0].billing_mode == "PAY_PER_REQUEST"
    error_message = "The table is protected, can be restored, and costs what is used."
  }

  assert {
    condition     = aws_cognito_user_pool.this[0].deletion_protection == "ACTIVE" && aws_cognito_user_pool.this[0].admin_create_user_config[0].allow_admin_create_user_only
    error_message = "The pool is protected, and accounts are made by administrators."
  }

  assert {
    condition     = aws_cognito_user_pool_client.server[0].prevent_user_existence_errors == "ENABLED" && aws_cognito_user_pool_client.server[0].generate_secret
    error_message = "The pool does not tell who exists, and its client has a secret."
  }

  assert {
    condition     = local.container.readonlyRootFilesystem && local.container.user == "10001:10001"
    error_message = "The container is not root and cannot write to its image."
  }

  assert {
    condition     = length(aws_nat_gateway.this) == 0 && aws_ecs_service.this.network_configuration[0].assign_public_ip
    error_message = "Without NAT the tasks need addresses of their own."
  }

  assert {
    condition     = aws_ecs_service.this.deployment_circuit_breaker[0].rollback && aws_ecs_service.this.deployment_minimum_healthy_percent == 100
    error_message = "A bad deployment rolls back and never takes the service away."
  }

  assert {
    condition     = length(aws_wafv2_web_acl.this) == 1 && length(aws_route53_record.this) == 1 && output.endpoint == "https://sync.example.com/"
    error_message = "Web ACL, records and the address to enter."
  }

  assert {
    condition     = aws_ecs_task_definition.server.runtime_platform[0].cpu_architecture == "ARM64"
    error_message = "ARM64 by default."
  }
}

run "existing_certificate_without_zone" {
  command = plan

  variables {
    zone_id         = null
    certificate_arn = "arn:aws:acm:eu-central-1:123456789012:certificate/6f1c2d3e"
  }

  assert {
    condition     = length(aws_acm_certificate.this) == 0 && length(aws_route53_record.this) == 0 && aws_lb_listener.https[0].certificate_arn == "arn:aws:acm:eu-central-1:123456789012:certificate/6f1c2d3e"
    error_message = "A given certificate is used as it is."
  }
}

run "existing_network" {
  command = plan

  variables {
    network = { vpc_id = "vpc-1", public_subnet_ids = ["subnet-a", "subnet-b"], private_subnet_ids = ["subnet-c", "subnet-d"] }
  }

  assert {
    condition     = length(aws_vpc.this) == 0 && length(aws_vpc_endpoint.s3) == 0 && !aws_ecs_service.this.network_configuration[0].assign_public_ip && toset(aws_ecs_service.this.network_configuration[0].subnets) == toset(["subnet-c", "subnet-d"])
    error_message = "Tasks stand in the given private subnets, and no network is made."
  }
}

run "nat_per_zone" {
  command = plan

  variables {
    nat        = "per_zone"
    zone_count = 3
  }

  assert {
    condition     = length(aws_nat_gateway.this) == 3 && length(aws_subnet.private) == 3 && !aws_ecs_service.this.network_configuration[0].assign_public_ip
    error_message = "One NAT gateway a zone, and no public address on the tasks."
  }
}

run "nat_single" {
  command = plan

  variables {
    nat = "single"
  }

  assert {
    condition     = length(aws_nat_gateway.this) == 1 && length(aws_route.nat) == 2
    error_message = "Every private subnet goes out by the one gateway."
  }
}

run "own_key" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/1"
  }

  assert {
    condition     = alltrue([for rule in aws_s3_bucket_server_side_encryption_configuration.store[0].rule : rule.bucket_key_enabled && rule.apply_server_side_encryption_by_default[0].sse_algorithm == "aws:kms"]) && aws_cloudwatch_log_group.server.kms_key_id == var.kms_key_arn && aws_secretsmanager_secret.client[0].kms_key_id == var.kms_key_arn
    error_message = "The key covers bucket, logs and secret."
  }
}

run "second_factor" {
  command = plan

  variables {
    mfa = "OPTIONAL"
  }

  assert {
    condition     = aws_cognito_user_pool.this[0].mfa_configuration == "OPTIONAL" && aws_cognito_user_pool.this[0].software_token_mfa_configuration[0].enabled
    error_message = "Time-based codes are on."
  }
}

run "open_sign_up" {
  command = plan

  variables {
    self_sign_up  = true
    managed_login = { domain = "anki-school" }
    email         = { from = "Anki <anki@example.com>", identity_arn = "arn:aws:ses:eu-central-1:123456789012:identity/example.com" }
    mfa           = "ON"
  }

  assert {
    condition     = !aws_cognito_user_pool.this[0].admin_create_user_config[0].allow_admin_create_user_only
    error_message = "Everybody may make an account."
  }

  assert {
    condition     = aws_cognito_user_pool_domain.this[0].managed_login_version == 2 && length(aws_cognito_managed_login_branding.this) == 1 && !aws_cognito_user_pool_client.pages[0].generate_secret
    error_message = "The pages are managed login, by a client without a secret."
  }

  assert {
    condition     = aws_cognito_user_pool.this[0].email_configuration[0].email_sending_account == "DEVELOPER"
    error_message = "Mails go through SES."
  }
}

run "ready_to_destroy" {
  command = plan

  variables {
    deletion_protection = false
  }

  assert {
    condition     = aws_s3_bucket.store[0].force_destroy && !aws_dynamodb_table.heads[0].deletion_protection_enabled && aws_cognito_user_pool.this[0].deletion_protection == "INACTIVE" && !aws_lb.this[0].enable_deletion_protection && aws_ecr_repository.this[0].force_delete && aws_secretsmanager_secret.client[0].recovery_window_in_days == 0
    error_message = "Nothing may stand in the way of destroy."
  }
}

run "watched_from_outside" {
  command = plan

  variables {
    access_logs_bucket = "logs"
    flow_logs          = true
    alarm_emails       = ["a@example.com", "b@example.com"]
    log_retention_days = 365
  }

  assert {
    condition     = aws_lb.this[0].access_logs[0].bucket == "logs" && length(aws_s3_bucket_logging.store) == 1 && length(aws_flow_log.this) == 1 && length(aws_sns_topic_subscription.alarms) == 2 && aws_cloudwatch_log_group.server.retention_in_days == 365
    error_message = "Access logs, flow logs and subscribers."
  }
}

run "without_web_acl" {
  command = plan

  variables {
    waf = false
  }

  assert {
    condition     = length(aws_wafv2_web_acl.this) == 0 && length(aws_wafv2_web_acl_association.this) == 0
    error_message = "No web ACL."
  }
}

run "login_limit" {
  command = plan

  variables {
    login_rate_limit = 50
  }

  assert {
    condition     = anytrue([for rule in aws_wafv2_web_acl.this[0].rule : try(rule.statement[0].rate_based_statement[0].limit == 50, false)])
    error_message = "The web ACL counts logins."
  }
}

run "bigger_service" {
  command = plan

  variables {
    architecture          = "X86_64"
    task_cpu              = 4096
    task_memory_mib       = 8192
    task_storage_gib      = 100
    min_tasks             = 4
    max_tasks             = 40
    requests_per_task     = 12000
    max_sync_payload_megs = 500
    log_level             = "warning"
    history_days          = 90
    deleted_objects_days  = 60
    drain_seconds         = 600
    environment           = { ANKISYNCD_EXTRA = "1" }
    tags                  = { Owner = "it" }
    name                  = "school"
    vpc_cidr              = "10.9.0.0/16"
    allowed_cidrs         = ["192.0.2.0/24", "198.51.100.0/24"]
  }

  assert {
    condition     = aws_ecs_task_definition.server.cpu == "4096" && aws_ecs_task_definition.server.ephemeral_storage[0].size_in_gib == 100 && aws_ecs_task_definition.server.runtime_platform[0].cpu_architecture == "X86_64"
    error_message = "Task size."
  }

  assert {
    condition     = aws_appautoscaling_target.this.min_capacity == 4 && aws_appautoscaling_target.this.max_capacity == 40 && aws_appautoscaling_policy.requests.target_tracking_scaling_policy_configuration[0].target_value == 12000
    error_message = "Autoscaling."
  }

  assert {
    condition     = local.environment["MAX_SYNC_PAYLOAD_MEGS"] == "500" && local.environment["ANKISYNCD_WORKERS"] == "4" && local.environment["ANKISYNCD_LOG_LEVEL"] == "warning" && local.environment["ANKISYNCD_EXTRA"] == "1" && local.environment["ANKISYNCD_HISTORY_DAYS"] == "90"
    error_message = "Settings of the server."
  }

  assert {
    condition     = alltrue([for rule in aws_s3_bucket_lifecycle_configuration.store[0].rule : alltrue([for expiry in rule.noncurrent_version_expiration : expiry.noncurrent_days == 60])])
    error_message = "What is deleted stays as long as was asked for."
  }

  assert {
    condition     = aws_s3_bucket.store[0].tags["Owner"] == "it" && aws_s3_bucket.store[0].bucket_prefix == "school-" && aws_vpc.this[0].cidr_block == "10.9.0.0/16" && length(aws_vpc_security_group_ingress_rule.lb_https) == 2
    error_message = "Names, tags and ranges."
  }
}
