# Compaction and sweep, once a night, in a task of its own. There are three alarms (observability.tf): the schedule
# could not start it, the task ended with an error, and a day without a finished run.

resource "aws_ecs_task_definition" "maintain" {
  region                   = var.region
  family                   = "${var.name}-maintain"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.task_cpu
  memory                   = var.task_memory_mib
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.maintain.arn
  skip_destroy             = true
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

resource "aws_sqs_queue" "maintain" {
  region                    = var.region
  name                      = "${var.name}-maintain-failed"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
  tags                      = local.tags
}

resource "aws_scheduler_schedule" "maintain" {
  region              = var.region
  name                = "${var.name}-maintain"
  description         = "Compaction and sweep of the stored versions"
  schedule_expression = "cron(17 3 * * ? *)"
  kms_key_arn         = local.kms_key_arn

  # With its rights from the first run on.
  depends_on = [aws_iam_role_policy.maintain, aws_iam_role_policy.scheduler]

  flexible_time_window {
    mode                      = "FLEXIBLE"
    maximum_window_in_minutes = 60
  }

  target {
    arn      = local.cluster_arn
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

    dead_letter_config {
      arn = aws_sqs_queue.maintain.arn
    }
  }
}

# Also for commands that an administrator runs as such a task, if they fail.
resource "aws_cloudwatch_event_rule" "maintain_failed" {
  region      = var.region
  name        = "${var.name}-maintain-failed"
  description = "A maintenance task ended with an error, or could not start"
  tags        = local.tags

  event_pattern = jsonencode({
    source      = ["aws.ecs"]
    detail-type = ["ECS Task State Change"]
    detail = {
      clusterArn = [local.cluster_arn]
      group      = ["family:${aws_ecs_task_definition.maintain.family}"]
      lastStatus = ["STOPPED"]
      "$or" = [
        { containers = { exitCode = [{ anything-but = [0] }] } },
        { stopCode = [{ anything-but = ["EssentialContainerExited"] }] },
      ]
    }
  })
}

resource "aws_cloudwatch_event_target" "maintain_failed" {
  region = var.region
  rule   = aws_cloudwatch_event_rule.maintain_failed.name
  arn    = local.topic_arn
}
