locals {
  workers = max(1, floor(var.task_cpu / 1024))

  environment = merge({
    ANKISYNCD_BACKEND        = "aws"
    ANKISYNCD_HOST           = "0.0.0.0"
    ANKISYNCD_PORT           = tostring(local.port)
    ANKISYNCD_IP_HEADER      = "RightmostXForwardedFor" # the load balancer adds the last one
    ANKISYNCD_WORKERS        = tostring(local.workers)
    ANKISYNCD_LOG_LEVEL      = var.log_level
    ANKISYNCD_LOG_FORMAT     = "json"
    ANKISYNCD_DATA_ROOT      = "/data"
    ANKISYNCD_CACHE_DIR      = "/data/cache"
    ANKISYNCD_CACHE_BYTES    = tostring(floor(var.task_storage_gib / 2) * 1073741824)
    ANKISYNCD_HISTORY_DAYS   = tostring(var.history_days)
    ANKISYNCD_S3_BUCKET      = local.bucket
    ANKISYNCD_DYNAMODB_TABLE = local.table
    ANKISYNCD_AUTH           = "cognito"
    ANKISYNCD_COGNITO_FLOW   = "ADMIN_USER_PASSWORD_AUTH"
    COGNITO_REGION           = local.user_pool_region
    COGNITO_USER_POOL_ID     = local.user_pool_id
    COGNITO_CLIENT_ID        = local.client_id
    MAX_SYNC_PAYLOAD_MEGS    = tostring(var.max_sync_payload_megs)
    AWS_REGION               = local.region
    HOME                     = "/data"
    TMPDIR                   = "/data"
  }, var.environment)

  # Of a task, and not of a command on another machine (output "admin_environment").
  task_only = [
    "ANKISYNCD_CACHE_BYTES", "ANKISYNCD_CACHE_DIR", "ANKISYNCD_DATA_ROOT", "ANKISYNCD_HOST", "ANKISYNCD_IP_HEADER",
    "ANKISYNCD_LOG_FORMAT", "ANKISYNCD_PORT", "ANKISYNCD_WORKERS", "HOME", "TMPDIR",
  ]

  # The agent of "execute command" writes here, and the root file system is read-only.
  shell_mounts = {
    shell-agent = "/managed-agents"
    shell-state = "/var/lib/amazon/ssm"
    shell-log   = "/var/log/amazon/ssm"
  }
  shell_log = var.execute_command && var.cluster_arn == null

  container = {
    name                   = "server"
    image                  = var.image
    essential              = true
    readonlyRootFilesystem = true
    user                   = "10001:10001"

    # The load balancer drains (alb.tf), then the task gets SIGTERM, and SIGKILL after this many seconds:
    # Fargate's maximum. The server's own grace (app/cli/server.py) is below it.
    stopTimeout = 120

    environment  = [for name in sort(keys(local.environment)) : { name = name, value = local.environment[name] }]
    secrets      = [{ name = "COGNITO_CLIENT_SECRET", valueFrom = local.client_secret_arn }]
    ulimits      = [{ name = "nofile", softLimit = 65536, hardLimit = 65536 }]
    portMappings = [{ containerPort = local.port, protocol = "tcp" }]

    # The volume is where the image declares one: only there does Fargate take over its owner.
    mountPoints = [{ sourceVolume = "scratch", containerPath = "/data", readOnly = false }]

    linuxParameters = { initProcessEnabled = true }

    logConfiguration = {
      logDriver = "awslogs"

      options = {
        awslogs-group         = aws_cloudwatch_log_group.server.name
        awslogs-region        = local.region
        awslogs-stream-prefix = "server"
        mode                  = "non-blocking"
        max-buffer-size       = "25m"
      }
    }
  }
}

resource "aws_ecr_repository" "this" {
  count                = var.create_repository ? 1 : 0
  region               = var.region
  name                 = var.name
  image_tag_mutability = "IMMUTABLE"
  force_delete         = !var.deletion_protection
  tags                 = local.tags

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = local.has_key ? "KMS" : "AES256"
    kms_key         = local.kms_key_arn
  }
}

# A release is one tagged index and the manifests to which it refers; ECR keeps those as long as the index.
resource "aws_ecr_lifecycle_policy" "this" {
  count      = var.create_repository ? 1 : 0
  region     = var.region
  repository = aws_ecr_repository.this[0].name

  policy = jsonencode({
    rules = [
      {
        rulePriority = 1
        description  = "Keep the last 30 releases, enough to roll back"
        selection    = { tagStatus = "tagged", tagPatternList = ["*"], countType = "imageCountMoreThan", countNumber = 30 }
        action       = { type = "expire" }
      },
      {
        rulePriority = 2
        description  = "Without a tag: what a failed push left"
        selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 14 }
        action       = { type = "expire" }
      },
    ]
  })
}

resource "aws_ecs_cluster" "this" {
  count  = var.cluster_arn == null ? 1 : 0
  region = var.region
  name   = var.name
  tags   = local.tags

  setting {
    name  = "containerInsights"
    value = "enabled"
  }

  dynamic "configuration" {
    for_each = local.has_key || var.execute_command ? [1] : []

    content {
      dynamic "managed_storage_configuration" {
        for_each = local.has_key ? [local.kms_key_arn] : []

        content {
          fargate_ephemeral_storage_kms_key_id = managed_storage_configuration.value
        }
      }

      dynamic "execute_command_configuration" {
        for_each = var.execute_command ? [1] : []

        content {
          kms_key_id = local.kms_key_arn
          logging    = "OVERRIDE"

          log_configuration {
            cloud_watch_encryption_enabled = local.has_key
            cloud_watch_log_group_name     = aws_cloudwatch_log_group.shell[0].name
          }
        }
      }
    }
  }
}

# What is typed and shown in a shell of a task.
resource "aws_cloudwatch_log_group" "shell" {
  count             = local.shell_log ? 1 : 0
  region            = var.region
  name              = "/${var.name}/shell"
  retention_in_days = var.log_retention_days
  kms_key_id        = local.kms_key_arn
  tags              = local.tags
}

resource "aws_ecs_task_definition" "server" {
  region                   = var.region
  family                   = "${var.name}-server"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.task_cpu
  memory                   = var.task_memory_mib
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn
  tags                     = local.tags

  # Old revisions stay registered: ECS cannot roll a service back to one that is not.
  skip_destroy = true

  container_definitions = jsonencode([merge(local.container, {
    mountPoints = concat(local.container.mountPoints, [
      for volume, path in var.execute_command ? local.shell_mounts : {} : { sourceVolume = volume, containerPath = path, readOnly = false }
    ])
  })])

  ephemeral_storage {
    size_in_gib = var.task_storage_gib
  }

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.architecture
  }

  dynamic "volume" {
    for_each = concat(["scratch"], var.execute_command ? keys(local.shell_mounts) : [])

    content {
      name = volume.value
    }
  }
}

resource "aws_ecs_service" "this" {
  region                             = var.region
  name                               = var.name
  cluster                            = local.cluster_arn
  task_definition                    = aws_ecs_task_definition.server.arn
  launch_type                        = "FARGATE"
  platform_version                   = "LATEST"
  desired_count                      = var.min_tasks
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = 60
  availability_zone_rebalancing      = "ENABLED"
  enable_execute_command             = var.execute_command
  propagate_tags                     = "SERVICE"
  wait_for_steady_state              = var.wait_for_deployment
  tags                               = local.tags

  # Everything that a task needs before it can start. Without a deployment to roll back to, a first one
  # whose tasks cannot pull, read their secret or reach AWS is given up.
  depends_on = [
    aws_iam_role_policy.execution,
    aws_iam_role_policy.task,
    aws_lb_listener.https,
    aws_lb_listener_rule.this,
    aws_route.internet,
    aws_route.nat,
    aws_route_table_association.private,
    aws_route_table_association.public,
    aws_secretsmanager_secret_version.client,
    aws_vpc_endpoint.dynamodb,
    aws_vpc_endpoint.s3,
    aws_vpc_security_group_egress_rule.lb_to_tasks,
    aws_vpc_security_group_egress_rule.tasks_https,
    aws_vpc_security_group_ingress_rule.tasks_from_lb,
  ]

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  alarms {
    alarm_names = [aws_cloudwatch_metric_alarm.deployment.alarm_name]
    enable      = true
    rollback    = true
  }

  network_configuration {
    subnets          = local.task_subnet_ids
    security_groups  = [aws_security_group.tasks.id]
    assign_public_ip = local.tasks_are_public
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.this.arn
    container_name   = local.container.name
    container_port   = local.port
  }

  timeouts {
    create = "20m"
    update = "40m"
  }

  lifecycle {
    ignore_changes = [desired_count] # autoscaling changes it

    # After an automatic rollback the service is steady too, with the old revision.
    postcondition {
      condition     = !var.wait_for_deployment || self.task_definition == aws_ecs_task_definition.server.arn
      error_message = "The deployment failed and was rolled back: the service runs ${self.task_definition}. See the service's events and the log of the stopped tasks; the next apply tries the same release again."
    }
  }
}

resource "aws_appautoscaling_target" "this" {
  region             = var.region
  service_namespace  = "ecs"
  resource_id        = "service/${local.cluster_name}/${aws_ecs_service.this.name}"
  scalable_dimension = "ecs:service:DesiredCount"
  min_capacity       = var.min_tasks
  max_capacity       = var.max_tasks
  tags               = local.tags
}

resource "aws_appautoscaling_policy" "requests" {
  region             = var.region
  name               = "${var.name}-requests"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.this.service_namespace
  resource_id        = aws_appautoscaling_target.this.resource_id
  scalable_dimension = aws_appautoscaling_target.this.scalable_dimension

  target_tracking_scaling_policy_configuration {
    target_value       = var.requests_per_task
    scale_in_cooldown  = 300
    scale_out_cooldown = 60

    predefined_metric_specification {
      predefined_metric_type = "ALBRequestCountPerTarget"
      resource_label         = "${local.load_balancer_suffix}/${aws_lb_target_group.this.arn_suffix}"
    }
  }
}

resource "aws_appautoscaling_policy" "cpu" {
  region             = var.region
  name               = "${var.name}-cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.this.service_namespace
  resource_id        = aws_appautoscaling_target.this.resource_id
  scalable_dimension = aws_appautoscaling_target.this.scalable_dimension

  target_tracking_scaling_policy_configuration {
    target_value       = 60
    scale_in_cooldown  = 300
    scale_out_cooldown = 60

    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}
