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
