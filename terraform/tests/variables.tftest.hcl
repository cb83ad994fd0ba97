# Every variable refuses what cannot work, before anything is made.

variables {
  domain_name = "sync.example.com"
  zone_id     = "Z0123456789ABCDEFGHIJ"
  image       = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/ankisyncd:0.1.0"
}

run "refuses_domain_with_scheme" {
  command = plan

  variables {
    domain_name = "https://sync.example.com"
  }

  expect_failures = [var.domain_name]
}

run "refuses_domain_in_capitals" {
  command = plan

  variables {
    domain_name = "Sync.Example.com"
  }

  expect_failures = [var.domain_name]
}

run "refuses_domain_without_dot" {
  command = plan

  variables {
    domain_name = "sync"
  }

  expect_failures = [var.domain_name]
}

run "refuses_image_latest" {
  command = plan

  variables {
    image = "ankisyncd:latest"
  }

  expect_failures = [var.image]
}

run "refuses_image_without_tag" {
  command = plan

  variables {
    image = "ankisyncd"
  }

  expect_failures = [var.image]
}

run "refuses_zone_of_another_form" {
  command = plan

  variables {
    zone_id = "example.com"
  }

  expect_failures = [var.zone_id]
}

run "refuses_certificate_of_another_service" {
  command = plan

  variables {
    certificate_arn = "arn:aws:iam::123456789012:server-certificate/x"
  }

  expect_failures = [var.certificate_arn]
}

run "refuses_neither_zone_nor_certificate" {
  command = plan

  variables {
    certificate_arn = null
    zone_id         = null
  }

  expect_failures = [var.certificate_arn]
}

run "refuses_name_too_long" {
  command = plan

  variables {
    name = "a-name-that-is-far-too-long-for-a-target-group"
  }

  expect_failures = [var.name]
}

run "refuses_name_in_capitals" {
  command = plan

  variables {
    name = "Anki"
  }

  expect_failures = [var.name]
}

run "refuses_network_of_one_subnet" {
  command = plan

  variables {
    network = { vpc_id = "vpc-1", public_subnet_ids = ["subnet-1"], private_subnet_ids = ["subnet-2"] }
  }

  expect_failures = [var.network]
}

run "refuses_range_too_small" {
  command = plan

  variables {
    vpc_cidr = "10.0.0.0/24"
  }

  expect_failures = [var.vpc_cidr]
}

run "refuses_range_of_words" {
  command = plan

  variables {
    vpc_cidr = "everything"
  }

  expect_failures = [var.vpc_cidr]
}

run "refuses_one_zone" {
  command = plan

  variables {
    zone_count = 1
  }

  expect_failures = [var.zone_count]
}

run "refuses_nat_unknown" {
  command = plan

  variables {
    nat = "yes"
  }

  expect_failures = [var.nat]
}

run "refuses_nobody_allowed" {
  command = plan

  variables {
    allowed_cidrs = []
  }

  expect_failures = [var.allowed_cidrs]
}

run "refuses_allowed_words" {
  command = plan

  variables {
    allowed_cidrs = ["office"]
  }

  expect_failures = [var.allowed_cidrs]
}

run "refuses_architecture_unknown" {
  command = plan

  variables {
    architecture = "arm"
  }

  expect_failures = [var.architecture]
}

run "refuses_cpu_that_fargate_lacks" {
  command = plan

  variables {
    task_cpu = 1000
  }

  expect_failures = [var.task_cpu]
}

run "refuses_memory_below_cpu" {
  command = plan

  variables {
    task_memory_mib = 1024
  }

  expect_failures = [var.task_memory_mib]
}

run "refuses_memory_not_whole" {
  command = plan

  variables {
    task_memory_mib = 2500
  }

  expect_failures = [var.task_memory_mib]
}

run "refuses_storage_too_small" {
  command = plan

  variables {
    task_storage_gib = 20
  }

  expect_failures = [var.task_storage_gib]
}

run "refuses_no_task" {
  command = plan

  variables {
    min_tasks = 0
  }

  expect_failures = [var.min_tasks]
}

run "refuses_half_a_task" {
  command = plan

  variables {
    min_tasks = 1.5
  }

  expect_failures = [var.min_tasks]
}

run "refuses_max_below_min" {
  command = plan

  variables {
    max_tasks = 1
  }

  expect_failures = [var.max_tasks]
}

run "refuses_no_requests" {
  command = plan

  variables {
    requests_per_task = 0
  }

  expect_failures = [var.requests_per_task]
}

run "refuses_payload_zero" {
  command = plan

  variables {
    max_sync_payload_megs = 0
  }

  expect_failures = [var.max_sync_payload_megs]
}

run "refuses_log_level_unknown" {
  command = plan

  variables {
    log_level = "loud"
  }

  expect_failures = [var.log_level]
}

run "refuses_secret_in_environment" {
  command = plan

  variables {
    environment = { COGNITO_CLIENT_SECRET = "x" }
  }

  expect_failures = [var.environment]
}

run "refuses_module_setting_in_environment" {
  command = plan

  variables {
    environment = { ANKISYNCD_BACKEND = "local" }
  }

  expect_failures = [var.environment]
}

run "refuses_history_of_no_day" {
  command = plan

  variables {
    history_days = 0
  }

  expect_failures = [var.history_days]
}

run "refuses_key_alias" {
  command = plan

  variables {
    kms_key_arn = "alias/aws/s3"
  }

  expect_failures = [var.kms_key_arn]
}

run "refuses_mfa_that_locks_out" {
  command = plan

  variables {
    mfa = "ON"
  }

  expect_failures = [var.mfa]
}

run "refuses_retention_not_offered" {
  command = plan

  variables {
    log_retention_days = 31
  }

  expect_failures = [var.log_retention_days]
}

run "refuses_address_without_host" {
  command = plan

  variables {
    alarm_emails = ["operations"]
  }

  expect_failures = [var.alarm_emails]
}

run "refuses_login_limit_too_low" {
  command = plan

  variables {
    login_rate_limit = 1
  }

  expect_failures = [var.login_rate_limit]
}

run "refuses_device_of_no_day" {
  command = plan

  variables {
    device_days = 0
  }

  expect_failures = [var.device_days]
}

run "refuses_region_of_words" {
  command = plan

  variables {
    region = "Frankfurt"
  }

  expect_failures = [var.region]
}

run "refuses_boundary_of_another_form" {
  command = plan

  variables {
    permissions_boundary_arn = "boundary"
  }

  expect_failures = [var.permissions_boundary_arn]
}

run "refuses_one_zone_twice" {
  command = plan

  variables {
    zones = ["eu-central-1a", "eu-central-1a"]
  }

  expect_failures = [var.zones]
}

run "refuses_prefix_list_of_another_form" {
  command = plan

  variables {
    allowed_prefix_lists = ["office"]
  }

  expect_failures = [var.allowed_prefix_lists]
}

run "refuses_load_balancer_without_its_network" {
  command = plan

  variables {
    load_balancer = { arn = "a", listener_arn = "b", security_group_id = "c", dns_name = "d", zone_id = "e" }
  }

  expect_failures = [var.load_balancer]
}

run "refuses_cluster_of_another_form" {
  command = plan

  variables {
    cluster_arn = "main"
  }

  expect_failures = [var.cluster_arn]
}

run "refuses_registry_of_another_form" {
  command = plan

  variables {
    registry_arns = ["123456789012.dkr.ecr.eu-central-1.amazonaws.com/ankisyncd"]
  }

  expect_failures = [var.registry_arns]
}

run "refuses_drain_shorter_than_a_request" {
  command = plan

  variables {
    drain_seconds = 10
  }

  expect_failures = [var.drain_seconds]
}

run "refuses_no_bucket" {
  command = plan

  variables {
    create_bucket = false
  }

  expect_failures = [var.bucket_name]
}

run "refuses_no_table" {
  command = plan

  variables {
    create_table = false
  }

  expect_failures = [var.table_name]
}

run "refuses_history_longer_than_media_indexes_remember" {
  command = plan

  variables {
    history_days = 400
  }

  expect_failures = [var.history_days]
}

run "refuses_deleted_objects_of_no_day" {
  command = plan

  variables {
    deleted_objects_days = 0
  }

  expect_failures = [var.deleted_objects_days]
}

run "refuses_two_keys" {
  command = plan

  variables {
    create_kms_key = true
    kms_key_arn    = "arn:aws:kms:eu-central-1:123456789012:key/1"
  }

  expect_failures = [var.kms_key_arn]
}

run "refuses_copies_of_a_table_of_others" {
  command = plan

  variables {
    create_table = false
    table_name   = "restored"
    replica      = { region = "eu-west-1" }
  }

  expect_failures = [var.replica]
}

run "refuses_a_copy_without_a_key_where_there_is_one" {
  command = plan

  variables {
    create_kms_key = true
    replica        = { region = "eu-west-1" }
  }

  expect_failures = [var.replica]
}

run "refuses_pool_of_another_form" {
  command = plan

  variables {
    user_pool = { id = "people" }
  }

  expect_failures = [var.user_pool]
}

run "refuses_client_without_its_secret" {
  command = plan

  variables {
    user_pool = { id = "eu-central-1_AbCdEf123", client_id = "client" }
  }

  expect_failures = [var.user_pool]
}

run "refuses_region_of_a_pool_that_exists" {
  command = plan

  variables {
    user_pool        = { id = "eu-central-1_AbCdEf123" }
    user_pool_region = "eu-west-1"
  }

  expect_failures = [var.user_pool_region]
}

run "refuses_login_pages_without_a_certificate" {
  command = plan

  variables {
    managed_login = { domain = "login.example.com" }
  }

  expect_failures = [var.managed_login]
}

run "refuses_sender_that_is_no_identity" {
  command = plan

  variables {
    email = { from = "anki@example.com", identity_arn = "example.com" }
  }

  expect_failures = [var.email]
}

run "refuses_sign_up_without_a_page" {
  command = plan

  variables {
    self_sign_up = true
  }

  expect_failures = [var.self_sign_up]
}

run "refuses_topic_of_another_form" {
  command = plan

  variables {
    alarm_topic_arn = "operations"
  }

  expect_failures = [var.alarm_topic_arn]
}

run "refuses_budget_of_nothing" {
  command = plan

  variables {
    monthly_budget_usd = 0
  }

  expect_failures = [var.monthly_budget_usd]
}
