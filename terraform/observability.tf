resource "aws_cloudwatch_log_group" "server" {
  region            = var.region
  name              = "/${var.name}/server"
  retention_in_days = var.log_retention_days
  kms_key_id        = local.kms_key_arn
  tags              = local.tags
}

# Counted from the server's own lines (ANKISYNCD_LOG_FORMAT=json); tests run these patterns over
# lines that a server wrote.
locals {
  namespace = var.name

  log_metrics = {
    syncs-begun      = "{ $.event = \"request\" && $.method = \"meta\" && $.status = 200 }"
    syncs-started    = "{ $.event = \"request\" && $.method = \"start\" && $.status = 200 }"
    syncs-finished   = "{ $.event = \"request\" && $.method = \"finish\" && $.status = 200 }"
    sync-conflicts   = "{ $.event = \"request\" && $.status = 409 }"
    logins-refused   = "{ $.event = \"request\" && $.method = \"hostKey\" && $.status = 403 }"
    failed-requests  = "{ $.event = \"request\" && $.status >= 500 }"
    backend-away     = "{ $.event = \"request\" && $.status = 503 }"
    server-errors    = "{ $.event = \"request\" && $.status = 500 }"
    corrupt-storage  = "{ $.traceback = \"*storage.errors.Corrupt*\" }"
    maintenance-done = "\"databases,\" \"compacted;\"" # the nightly task's last line is plain text
  }
}

resource "aws_cloudwatch_log_metric_filter" "this" {
  for_each       = local.log_metrics
  region         = var.region
  name           = "${var.name}-${each.key}"
  log_group_name = aws_cloudwatch_log_group.server.name
  pattern        = each.value

  metric_transformation {
    name          = each.key
    namespace     = local.namespace
    value         = "1"
    default_value = "0"
  }
}

# How long the first request of a sync takes. It is small, so unlike the load balancer's figure this one does not
# contain the time that a slow phone needs for an upload.
resource "aws_cloudwatch_log_metric_filter" "meta_ms" {
  region         = var.region
  name           = "${var.name}-meta-ms"
  log_group_name = aws_cloudwatch_log_group.server.name
  pattern        = local.log_metrics.syncs-begun

  metric_transformation {
    name      = "meta-ms"
    namespace = local.namespace
    value     = "$.ms"
    unit      = "Milliseconds"
  }
}

# Where alarms go ------------------------------------------------------------------------------------

# Without a customer key the topic is not encrypted: CloudWatch may not use the key alias/aws/sns, and an
# alarm would arrive nowhere. An alarm holds names and numbers of metrics only.
resource "aws_sns_topic" "alarms" {
  count             = var.alarm_topic_arn == null ? 1 : 0
  region            = var.region
  name              = "${var.name}-alarms"
  kms_master_key_id = local.kms_key_arn
  tags              = local.tags
}

data "aws_iam_policy_document" "topic" {
  count = var.alarm_topic_arn == null ? 1 : 0

  statement {
    sid       = "Account"
    actions   = ["sns:GetTopicAttributes", "sns:Publish", "sns:SetTopicAttributes", "sns:Subscribe"]
    resources = [aws_sns_topic.alarms[0].arn]

    principals {
      type        = "AWS"
      identifiers = ["arn:${local.partition}:iam::${local.account}:root"]
    }
  }

  statement {
    sid       = "Publishers"
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.alarms[0].arn]

    principals {
      type        = "Service"
      identifiers = ["budgets.amazonaws.com", "cloudwatch.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }

  # Without a condition, as in the example of AWS: EventBridge long did not support conditions in topic policies.
  statement {
    sid       = "Events"
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.alarms[0].arn]

    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }
  }
}

resource "aws_sns_topic_policy" "alarms" {
  count  = var.alarm_topic_arn == null ? 1 : 0
  region = var.region
  arn    = aws_sns_topic.alarms[0].arn
  policy = data.aws_iam_policy_document.topic[0].json
}

resource "aws_sns_topic_subscription" "alarms" {
  for_each  = toset(var.alarm_emails)
  region    = var.region
  topic_arn = local.topic_arn
  protocol  = "email"
  endpoint  = each.value
}

# Alarms -----------------------------------------------------------------------------------------------
# tests/terraform/test_alarms.py has the dimensions with which AWS publishes each metric: with any others an
# alarm has no data and never fires.

locals {
  on_lb      = { LoadBalancer = local.load_balancer_suffix }
  on_targets = { LoadBalancer = local.load_balancer_suffix, TargetGroup = aws_lb_target_group.this.arn_suffix }
  on_service = { ClusterName = local.cluster_name, ServiceName = aws_ecs_service.this.name }
  on_table   = { TableName = local.table }
  on_index   = { TableName = local.table, GlobalSecondaryIndexName = "listing" }
  on_client  = { UserPool = local.user_pool_id, UserPoolClient = local.client_id }

  # On one metric: [text, namespace, metric, dimensions, statistic, period in s, periods, "above" or "below",
  # threshold, what a missing value is]
  alarms = merge({
    corrupt-storage    = ["Stored bytes differ from what was written", local.namespace, "corrupt-storage", {}, "Sum", 300, 1, "above", 0, "notBreaching"]
    server-errors      = ["The server answered 500; the log has the traceback", local.namespace, "server-errors", {}, "Sum", 300, 1, "above", 0, "notBreaching"]
    backend-away       = ["Bucket, table or user pool did not answer the server", local.namespace, "backend-away", {}, "Sum", 900, 1, "above", 2, "notBreaching"]
    slow               = ["The first request of one sync in twenty takes over 2 s", local.namespace, "meta-ms", {}, "p95", 900, 1, "above", 2000, "notBreaching"]
    no-task            = ["No task answers its health check: the service is down", "AWS/ApplicationELB", "HealthyHostCount", local.on_targets, "Maximum", 60, 3, "below", 1, "breaching"]
    few-tasks          = ["Fewer tasks are healthy than min_tasks", "AWS/ApplicationELB", "HealthyHostCount", local.on_targets, "Maximum", 60, 10, "below", var.min_tasks, "breaching"]
    unhealthy          = ["A task fails its health check", "AWS/ApplicationELB", "UnHealthyHostCount", local.on_targets, "Maximum", 60, 5, "above", 0, "notBreaching"]
    cpu                = ["Tasks are busy though autoscaling is on", "AWS/ECS", "CPUUtilization", local.on_service, "Average", 60, 15, "above", 85, "notBreaching"]
    memory             = ["Tasks run out of memory", "AWS/ECS", "MemoryUtilization", local.on_service, "Maximum", 60, 5, "above", 90, "notBreaching"]
    maintenance-missed = ["No nightly maintenance came to its end for 30 hours", local.namespace, "maintenance-done", {}, "Sum", 3600, 30, "below", 1, "breaching"]
    maintenance-queue  = ["The nightly maintenance could not be started", "AWS/SQS", "ApproximateNumberOfMessagesVisible", { QueueName = aws_sqs_queue.maintain.name }, "Maximum", 300, 1, "above", 0, "notBreaching"]
    }, local.waf ? {
    waf-logins   = ["An address tries more logins than login_rate_limit: people behind it cannot log in", "AWS/WAFV2", "BlockedRequests", { WebACL = var.name, Rule = "${var.name}-logins", Region = local.region }, "Sum", 900, 1, "above", 20, "notBreaching"]
    waf-labelled = ["Many requests from bad addresses or with bad inputs are answered with 503", "AWS/WAFV2", "BlockedRequests", { WebACL = var.name, Rule = "${var.name}-labelled", Region = local.region }, "Sum", 900, 1, "above", 500, "notBreaching"]
    } : {}, local.has_certificate ? {
    certificate = ["The certificate ends within three weeks, and was not renewed", "AWS/CertificateManager", "DaysToExpiry", { CertificateArn = local.certificate_arn }, "Minimum", 86400, 1, "below", 21, "ignore"]
    } : {}, var.replica == null ? {} : {
    replica-failed = ["Objects could not be copied to the second region", "AWS/S3", "OperationsFailedReplication", { SourceBucket = local.bucket, DestinationBucket = aws_s3_bucket.replica[0].id, RuleId = "everything" }, "Sum", 900, 1, "above", 0, "notBreaching"]
    replica-late   = ["The table's copy in the second region is over a minute behind", "AWS/DynamoDB", "ReplicationLatency", { TableName = local.table, ReceivingRegion = var.replica.region }, "Average", 300, 3, "above", 60000, "notBreaching"]
  })

  # On several metrics: [text, expression, threshold to be above, period in s, {id = [namespace, metric, dimensions]}].
  # Shares need at least three failures: reached by a group of fifty in an outage, and not by one bad request.
  formulas = merge({
    failed-syncs = ["One sync in five fails", "IF(FILL(failed, 0) >= 3, 100 * failed / MAX([FILL(begun, 0), failed]), 0)", 20, 900, {
      failed = [local.namespace, "failed-requests", {}]
      begun  = [local.namespace, "syncs-begun", {}]
    }]
    stalled = ["Syncs start and none comes to its end", "IF(FILL(started, 0) >= 3 AND FILL(finished, 0) < 1, 1, 0)", 0, 1800, {
      started  = [local.namespace, "syncs-started", {}]
      finished = [local.namespace, "syncs-finished", {}]
    }]
    target-5xx = ["One request in ten is answered with a server error", "IF(FILL(errors, 0) >= 3, 100 * errors / MAX([FILL(requests, 0), errors]), 0)", 10, 900, {
      errors   = ["AWS/ApplicationELB", "HTTPCode_Target_5XX_Count", local.on_targets]
      requests = ["AWS/ApplicationELB", "RequestCount", local.on_targets]
    }]
    table-throttled = ["DynamoDB throttles requests of the table", "SUM(FILL(METRICS(), 0))", 10, 300, {
      reads        = ["AWS/DynamoDB", "ReadThrottleEvents", local.on_table]
      writes       = ["AWS/DynamoDB", "WriteThrottleEvents", local.on_table]
      index_reads  = ["AWS/DynamoDB", "ReadThrottleEvents", local.on_index]
      index_writes = ["AWS/DynamoDB", "WriteThrottleEvents", local.on_index]
    }]
    table-unavailable = ["DynamoDB has errors of its own", "SUM(FILL(METRICS(), 0))", 0, 300, {
      for operation in ["BatchGetItem", "DeleteItem", "GetItem", "PutItem", "Query", "UpdateItem"] :
      lower(operation) => ["AWS/DynamoDB", "SystemErrors", merge(local.on_table, { Operation = operation })]
    }]
    }, var.load_balancer != null ? {} : {
    lb-5xx = ["The load balancer had no answer to one request in ten", "IF(FILL(errors, 0) >= 3, 100 * errors / (FILL(requests, 0) + errors), 0)", 10, 900, {
      errors   = ["AWS/ApplicationELB", "HTTPCode_ELB_5XX_Count", local.on_lb]
      requests = ["AWS/ApplicationELB", "RequestCount", local.on_lb]
    }]
    }, var.user_pool_region != null ? {} : { # in another region its metrics are there
    pool-throttled = ["Cognito throttles logins or the checks of devices' keys", "SUM(FILL(METRICS(), 0))", 0, 300, {
      logins    = ["AWS/Cognito", "SignInThrottles", local.on_client]
      refreshes = ["AWS/Cognito", "TokenRefreshThrottles", local.on_client]
    }]
  })
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each            = local.alarms
  region              = var.region
  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${each.value[0]}. See \"Watch it\" in terraform/README.md."
  namespace           = each.value[1]
  metric_name         = each.value[2]
  dimensions          = each.value[3]
  statistic           = startswith(each.value[4], "p") ? null : each.value[4]
  extended_statistic  = startswith(each.value[4], "p") ? each.value[4] : null
  period              = each.value[5]
  evaluation_periods  = each.value[6]
  comparison_operator = each.value[7] == "above" ? "GreaterThanThreshold" : "LessThanThreshold"
  threshold           = each.value[8]
  treat_missing_data  = each.value[9]
  alarm_actions       = [local.topic_arn]
  ok_actions          = [local.topic_arn]
  tags                = local.tags

  evaluate_low_sample_count_percentiles = startswith(each.value[4], "p") ? "ignore" : null
}

resource "aws_cloudwatch_metric_alarm" "formula" {
  for_each            = local.formulas
  region              = var.region
  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${each.value[0]}. See \"Watch it\" in terraform/README.md."
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value[2]
  treat_missing_data  = "notBreaching"
  alarm_actions       = [local.topic_arn]
  ok_actions          = [local.topic_arn]
  tags                = local.tags

  metric_query {
    id          = "value"
    expression  = each.value[1]
    label       = each.value[0]
    return_data = true
  }

  dynamic "metric_query" {
    for_each = each.value[4]

    content {
      id = metric_query.key

      metric {
        namespace   = metric_query.value[0]
        metric_name = metric_query.value[1]
        dimensions  = metric_query.value[2]
        stat        = "Sum"
        period      = each.value[3]
      }
    }
  }
}

# Rolls a deployment back (ecs.tf). It counts the tracebacks that a bad release writes, not answers that a client
# can cause, such as timeouts of slow uploads or 503 while AWS has trouble.
resource "aws_cloudwatch_metric_alarm" "deployment" {
  region              = var.region
  alarm_name          = "${var.name}-deployment"
  alarm_description   = "Three requests within five minutes ended with a 500; a deployment that runs is rolled back."
  namespace           = local.namespace
  metric_name         = aws_cloudwatch_log_metric_filter.this["server-errors"].metric_transformation[0].name
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 2
  treat_missing_data  = "notBreaching"
  alarm_actions       = [local.topic_arn]
  tags                = local.tags
}

# The tag has to be activated once as a cost allocation tag, or the budget sees no costs: README.md, "Watch it".
resource "aws_budgets_budget" "this" {
  count        = var.monthly_budget_usd == null ? 0 : 1
  name         = var.name
  budget_type  = "COST"
  time_unit    = "MONTHLY"
  limit_amount = tostring(var.monthly_budget_usd)
  limit_unit   = "USD"
  tags         = local.tags

  cost_filter {
    name   = "TagKeyValue"
    values = ["user:Application$${var.name}"]
  }

  dynamic "notification" {
    for_each = { ACTUAL = 80, FORECASTED = 100 }

    content {
      notification_type         = notification.key
      threshold                 = notification.value
      threshold_type            = "PERCENTAGE"
      comparison_operator       = "GREATER_THAN"
      subscriber_sns_topic_arns = [local.topic_arn]
    }
  }
}

# Dashboard ----------------------------------------------------------------------------------------------

locals {
  # A metric of the dashboard is a list: namespace, metric, and names and values of its dimensions in turn.
  widgets = [
    { title = "Syncs", stat = "Sum", metrics = [for name in ["syncs-begun", "syncs-finished", "sync-conflicts", "logins-refused"] : [local.namespace, name]] },
    { title = "Failures", stat = "Sum", metrics = [for name in ["failed-requests", "server-errors", "backend-away", "corrupt-storage"] : [local.namespace, name]] },
    { title = "First request of a sync, ms", stat = "p95", metrics = [[local.namespace, "meta-ms"]] },
    { title = "Requests", stat = "Sum", metrics = [for name in ["RequestCount", "HTTPCode_Target_4XX_Count", "HTTPCode_Target_5XX_Count"] : concat(["AWS/ApplicationELB", name], local.flat.targets)] },
    { title = "Tasks, average", stat = "Average", metrics = [concat(["AWS/ECS", "CPUUtilization"], local.flat.service), concat(["AWS/ECS", "MemoryUtilization"], local.flat.service), concat(["AWS/ApplicationELB", "HealthyHostCount"], local.flat.targets)] },
    { title = "Tasks, maximum", stat = "Maximum", metrics = [concat(["AWS/ECS", "CPUUtilization"], local.flat.service), concat(["AWS/ECS", "MemoryUtilization"], local.flat.service)] },
    { title = "Table", stat = "Sum", metrics = [for name in ["ConsumedWriteCapacityUnits", "ConsumedReadCapacityUnits", "ReadThrottleEvents", "WriteThrottleEvents", "ConditionalCheckFailedRequests"] : concat(["AWS/DynamoDB", name], local.flat.table)] },
    { title = "Bucket", stat = "Average", metrics = [["AWS/S3", "BucketSizeBytes", "StorageType", "StandardStorage", "BucketName", local.bucket], ["AWS/S3", "NumberOfObjects", "StorageType", "AllStorageTypes", "BucketName", local.bucket]] },
    { title = "User pool", stat = "Sum", region = local.user_pool_region, metrics = [for name in ["SignInSuccesses", "SignInThrottles", "TokenRefreshSuccesses", "TokenRefreshThrottles"] : concat(["AWS/Cognito", name], local.flat.client)] },
    { title = "Web ACL: blocked", stat = "Sum", metrics = [for rule in ["logins", "labelled"] : ["AWS/WAFV2", "BlockedRequests", "WebACL", var.name, "Rule", "${var.name}-${rule}", "Region", local.region]] },
    { title = "Maintenance that came to its end", stat = "Sum", metrics = [[local.namespace, "maintenance-done"]] },
  ]

  flat = {
    for name, dimensions in { targets = local.on_targets, service = local.on_service, table = local.on_table, client = local.on_client } :
    name => flatten([for dimension, value in dimensions : [dimension, value]])
  }
}

resource "aws_cloudwatch_dashboard" "this" {
  region         = var.region
  dashboard_name = var.name

  dashboard_body = jsonencode({
    widgets = [for index, widget in local.widgets : {
      type   = "metric"
      x      = 12 * (index % 2)
      y      = 6 * floor(index / 2)
      width  = 12
      height = 6

      properties = {
        title   = widget.title
        region  = try(widget.region, local.region)
        metrics = widget.metrics
        stat    = widget.stat
        period  = 300
        view    = "timeSeries"
      }
    }]
  })
}
