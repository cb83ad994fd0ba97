data "aws_iam_policy_document" "assume_task" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }

    condition {
      test     = "ArnLike"
      variable = "aws:SourceArn"
      values   = ["arn:${local.partition}:ecs:${local.region}:${local.account}:*"]
    }
  }
}

locals {
  # An image in ECR, of whichever account and region, names its own repository.
  ecr_image = try(regex("^([0-9]+)\\.dkr\\.ecr\\.([a-z0-9-]+)\\.amazonaws\\.com(?:\\.cn)?/([^:@]+)", var.image), null)
  repository_arns = distinct(concat(
    local.ecr_image == null ? [] : ["arn:${local.partition}:ecr:${local.ecr_image[1]}:${local.ecr_image[0]}:repository/${local.ecr_image[2]}"],
    aws_ecr_repository.this[*].arn,
    var.registry_arns,
  ))
}

# For the platform that starts a task: pull the image, read the secret, write the log.
resource "aws_iam_role" "execution" {
  name_prefix          = "${var.name}-execution-"
  assume_role_policy   = data.aws_iam_policy_document.assume_task.json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = local.tags
}

data "aws_iam_policy_document" "execution" {
  statement {
    sid       = "RegistryLogin"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"] # this action knows no resource
  }

  dynamic "statement" {
    for_each = length(local.repository_arns) == 0 ? [] : [local.repository_arns] # none: a public registry

    content {
      sid       = "Image"
      actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      resources = statement.value
    }
  }

  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.server.arn}:*"]
  }

  statement {
    sid       = "ClientSecret"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [local.client_secret_arn]
  }

  dynamic "statement" {
    for_each = local.has_key ? [local.kms_key_arn] : []

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role_policy" "execution" {
  name   = "execution"
  role   = aws_iam_role.execution.id
  policy = data.aws_iam_policy_document.execution.json
}

# What the server itself calls, and nothing else: tests/terraform runs it under this policy. It writes objects
# and never deletes one, so a stolen credential of a web task cannot delete a collection.
data "aws_iam_policy_document" "stores" {
  statement {
    sid       = "Objects"
    actions   = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
    resources = ["${local.bucket_arn}/*"]
  }

  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [local.bucket_arn]
  }

  statement {
    sid = "Heads"
    actions = [
      "dynamodb:BatchGetItem", "dynamodb:DeleteItem", "dynamodb:DescribeTable", "dynamodb:GetItem",
      "dynamodb:PutItem", "dynamodb:Query", "dynamodb:UpdateItem",
    ]
    resources = [local.table_arn, "${local.table_arn}/index/*"]
  }

  dynamic "statement" {
    for_each = local.has_key ? [local.kms_key_arn] : []

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role" "task" {
  name_prefix          = "${var.name}-task-"
  assume_role_policy   = data.aws_iam_policy_document.assume_task.json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = local.tags
}

data "aws_iam_policy_document" "task" {
  source_policy_documents = [data.aws_iam_policy_document.stores.json]

  statement {
    sid       = "Logins"
    actions   = ["cognito-idp:AdminGetUser", "cognito-idp:AdminInitiateAuth", "cognito-idp:AdminRespondToAuthChallenge"]
    resources = [local.user_pool_arn]
  }

  dynamic "statement" {
    for_each = var.execute_command ? [1] : []

    content {
      sid = "Shell"
      actions = [
        "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
      ]
      resources = ["*"] # these actions know no resource
    }
  }

  dynamic "statement" {
    for_each = local.shell_log ? [1] : []

    content {
      sid       = "ShellLog"
      actions   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
      resources = ["${aws_cloudwatch_log_group.shell[0].arn}:*"]
    }
  }

  dynamic "statement" {
    for_each = local.shell_log ? [1] : []

    content {
      sid       = "ShellLogSearch"
      actions   = ["logs:DescribeLogGroups"]
      resources = ["*"] # this action knows no resource
    }
  }
}

resource "aws_iam_role_policy" "task" {
  name   = "task"
  role   = aws_iam_role.task.id
  policy = data.aws_iam_policy_document.task.json
}

# Maintenance and administrators' commands: the same stores, and the rights to delete objects and to find users. No logins.
resource "aws_iam_role" "maintain" {
  name_prefix          = "${var.name}-maintain-"
  assume_role_policy   = data.aws_iam_policy_document.assume_task.json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = local.tags
}

data "aws_iam_policy_document" "maintain" {
  source_policy_documents = [data.aws_iam_policy_document.stores.json]

  statement {
    sid       = "Sweep"
    actions   = ["s3:DeleteObject"]
    resources = ["${local.bucket_arn}/*"]
  }

  statement {
    sid       = "FindUsers" # by name and e-mail, for administrators
    actions   = ["cognito-idp:ListUsers"]
    resources = [local.user_pool_arn]
  }
}

resource "aws_iam_role_policy" "maintain" {
  name   = "maintain"
  role   = aws_iam_role.maintain.id
  policy = data.aws_iam_policy_document.maintain.json
}

# For the scheduler, which starts the maintenance task.
data "aws_iam_policy_document" "assume_scheduler" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["scheduler.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_iam_role" "scheduler" {
  name_prefix          = "${var.name}-scheduler-"
  assume_role_policy   = data.aws_iam_policy_document.assume_scheduler.json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = local.tags
}

data "aws_iam_policy_document" "scheduler" {
  statement {
    sid       = "Run"
    actions   = ["ecs:RunTask"]
    resources = ["${aws_ecs_task_definition.maintain.arn_without_revision}:*"]

    condition {
      test     = "ArnEquals"
      variable = "ecs:cluster"
      values   = [local.cluster_arn]
    }
  }

  statement {
    sid       = "PassRoles"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.execution.arn, aws_iam_role.maintain.arn]

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ecs-tasks.amazonaws.com"]
    }
  }

  statement {
    sid       = "DeadLetters"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.maintain.arn]
  }

  # A schedule that is encrypted with a key of ours is read with this role.
  dynamic "statement" {
    for_each = local.has_key ? [local.kms_key_arn] : []

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role_policy" "scheduler" {
  name   = "scheduler"
  role   = aws_iam_role.scheduler.id
  policy = data.aws_iam_policy_document.scheduler.json
}

data "aws_iam_policy_document" "assume_flow" {
  count = var.network == null && var.flow_logs ? 1 : 0

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["vpc-flow-logs.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_iam_role" "flow" {
  count                = var.network == null && var.flow_logs ? 1 : 0
  name_prefix          = "${var.name}-flow-"
  assume_role_policy   = data.aws_iam_policy_document.assume_flow[0].json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = local.tags
}

data "aws_iam_policy_document" "flow" {
  count = var.network == null && var.flow_logs ? 1 : 0

  statement {
    actions   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.flow[0].arn}:*"]
  }
}

resource "aws_iam_role_policy" "flow" {
  count  = var.network == null && var.flow_logs ? 1 : 0
  name   = "flow"
  role   = aws_iam_role.flow[0].id
  policy = data.aws_iam_policy_document.flow[0].json
}
