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
    ANKISYNCD_S3_BUCKET      = aws_s3_bucket.store.id
    ANKISYNCD_DYNAMODB_TABLE = aws_dynamodb_table.heads.name
    ANKISYNCD_AUTH           = "cognito"
    ANKISYNCD_COGNITO_FLOW   = "ADMIN_USER_PASSWORD_AUTH"
    COGNITO_REGION           = local.region
    COGNITO_USER_POOL_ID     = aws_cognito_user_pool.this.id
    COGNITO_CLIENT_ID        = aws_cognito_user_pool_client.server.id
    MAX_SYNC_PAYLOAD_MEGS    = tostring(var.max_sync_payload_megs)
    AWS_REGION               = local.region
    HOME                     = "/data"
    TMPDIR                   = "/data"
  }, var.environment)

  container = {
    name                   = "server"
    image                  = var.image
    essential              = true
    readonlyRootFilesystem = true
    user                   = "10001:10001"

    # The volume stands where the image declares one: only there does Fargate take over its owner.
    # Drain, then SIGTERM, then this long until SIGKILL. The server's own grace is below it
    # (docker/Dockerfile), the load balancer's drain is as long as the longest usual request.
    stopTimeout = 120

    environment  = [for name in sort(keys(local.environment)) : { name = name, value = local.environment[name] }]
    secrets      = [{ name = "COGNITO_CLIENT_SECRET", valueFrom = aws_secretsmanager_secret.client.arn }]
    mountPoints  = [{ sourceVolume = "scratch", containerPath = "/data", readOnly = false }]
    ulimits      = [{ name = "nofile", softLimit = 65536, hardLimit = 65536 }]
    portMappings = [{ containerPort = local.port, protocol = "tcp" }]

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
  name                 = var.name
  image_tag_mutability = "IMMUTABLE"
  force_delete         = !var.deletion_protection
  tags                 = local.tags

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = var.kms_key_arn == null ? "AES256" : "KMS"
    kms_key         = var.kms_key_arn
  }
}

resource "aws_ecr_lifecycle_policy" "this" {
  repository = aws_ecr_repository.this.name

  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "Keep the last 20 images, enough to roll back"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 20 }
      action       = { type = "expire" }
    }]
  })
}

resource "aws_ecs_cluster" "this" {
  name = var.name
  tags = local.tags

  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

resource "aws_ecs_task_definition" "server" {
  family                   = "${var.name}-server"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.task_cpu
  memory                   = var.task_memory_mib
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn
  container_definitions    = jsonencode([local.container])
  tags                     = local.tags

  ephemeral_storage {
    size_in_gib = var.task_storage_gib
  }

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.architecture
  }

  volume {
    name = "scratch"
  }
}

resource "aws_ecs_service" "this" {
  name                               = var.name
  cluster                            = aws_ecs_cluster.this.id
  task_definition                    = aws_ecs_task_definition.server.arn
  launch_type                        = "FARGATE"
  platform_version                   = "LATEST"
  desired_count                      = var.min_tasks
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = 60
  availability_zone_rebalancing      = "ENABLED"
  enable_execute_command             = false
  propagate_tags                     = "SERVICE"
  tags                               = local.tags
  depends_on                         = [aws_lb_listener.https]

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  alarms {
    alarm_names = [aws_cloudwatch_metric_alarm.target_5xx.alarm_name]
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

  lifecycle {
    ignore_changes = [desired_count] # autoscaling's business
  }
}

resource "aws_appautoscaling_target" "this" {
  service_namespace  = "ecs"
  resource_id        = "service/${aws_ecs_cluster.this.name}/${aws_ecs_service.this.name}"
  scalable_dimension = "ecs:service:DesiredCount"
  min_capacity       = var.min_tasks
  max_capacity       = var.max_tasks
  tags               = local.tags
}

resource "aws_appautoscaling_policy" "requests" {
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
      resource_label         = "${aws_lb.this.arn_suffix}/${aws_lb_target_group.this.arn_suffix}"
    }
  }
}

resource "aws_appautoscaling_policy" "cpu" {
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

# Maintenance: compaction and sweep, once a night, in a task of its own.
resource "aws_ecs_task_definition" "maintain" {
  family                   = "${var.name}-maintain"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.task_cpu
  memory                   = var.task_memory_mib
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn
  tags                     = local.tags

  container_definitions = jsonencode([merge(local.container, {
    name         = "maintain"
    command      = ["ankisyncctl", "maintain"]
    portMappings = []
  })])

  ephemeral_storage {
    size_in_gib = var.task_storage_gib
  }

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.architecture
  }

  volume {
    name = "scratch"
  }
}

resource "aws_scheduler_schedule" "maintain" {
  name                = "${var.name}-maintain"
  description         = "Compaction and sweep of the stored versions"
  schedule_expression = "cron(17 3 * * ? *)"
  kms_key_arn         = var.kms_key_arn

  flexible_time_window {
    mode                      = "FLEXIBLE"
    maximum_window_in_minutes = 60
  }

  target {
    arn      = aws_ecs_cluster.this.arn
    role_arn = aws_iam_role.scheduler.arn

    ecs_parameters {
      task_definition_arn = aws_ecs_task_definition.maintain.arn_without_revision
      launch_type         = "FARGATE"
      task_count          = 1

      network_configuration {
        subnets          = local.task_subnet_ids
        security_groups  = [aws_security_group.tasks.id]
        assign_public_ip = local.tasks_are_public
      }
    }

    retry_policy {
      maximum_retry_attempts       = 2
      maximum_event_age_in_seconds = 7200
    }
  }
}
