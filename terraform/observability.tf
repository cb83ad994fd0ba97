resource "aws_cloudwatch_log_group" "server" {
  name              = "/${var.name}/server"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
  tags              = local.tags
}

# Counted from the server's own lines (ANKISYNCD_LOG_FORMAT=json); tests run these patterns over
# lines that a server wrote.
locals {
  namespace = var.name

  log_metrics = {
    syncs-finished   = "{ $.event = \"request\" && $.method = \"finish\" && $.status = 200 }"
    sync-conflicts   = "{ $.event = \"request\" && $.status = 409 }"
    logins-refused   = "{ $.event = \"request\" && $.method = \"hostKey\" && $.status = 403 }"
    backend-away     = "{ $.event = \"request\" && $.status = 503 }"
    server-errors    = "{ $.event = \"request\" && $.status = 500 }"
    corrupt-storage  = "{ $.traceback = \"*storage.errors.Corrupt*\" }"
    replay-differs   = "{ $.event = \"replay differs for *\" }"
    maintenance-done = "\"databases,\" \"compacted;\"" # the nightly task's last line is plain text
  }

  alarmed_log_metrics = {
    corrupt-storage = "Stored bytes differ from what was written; see the runbook in README.md."
    replay-differs  = "A replayed sync gave another answer than its first run; this is a bug."
    server-errors   = "The server answered 500; the log has the traceback."
  }
}

resource "aws_cloudwatch_log_metric_filter" "this" {
  for_each       = local.log_metrics
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

resource "aws_sns_topic" "alarms" {
  name              = "${var.name}-alarms"
  kms_master_key_id = var.kms_key_arn == null ? "alias/aws/sns" : var.kms_key_arn
  tags              = local.tags
}

resource "aws_sns_topic_subscription" "alarms" {
  for_each  = toset(var.alarm_emails)
  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = each.value
}

resource "aws_cloudwatch_metric_alarm" "log" {
  for_each            = local.alarmed_log_metrics
  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value
  namespace           = local.namespace
  metric_name         = aws_cloudwatch_log_metric_filter.this[each.key].metric_transformation[0].name
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  threshold           = 0
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  tags                = local.tags
}

# Also stops and rolls back a deployment (ecs.tf).
resource "aws_cloudwatch_metric_alarm" "target_5xx" {
  alarm_name          = "${var.name}-target-5xx"
  alarm_description   = "Tasks answer with server errors"
  namespace           = "AWS/ApplicationELB"
  metric_name         = "HTTPCode_Target_5XX_Count"
  dimensions          = { LoadBalancer = aws_lb.this.arn_suffix }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 3
  threshold           = 10
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
  tags                = local.tags
}

locals {
  lb      = { LoadBalancer = aws_lb.this.arn_suffix }
  targets = { LoadBalancer = aws_lb.this.arn_suffix, TargetGroup = aws_lb_target_group.this.arn_suffix }
  service = { ClusterName = aws_ecs_cluster.this.name, ServiceName = aws_ecs_service.this.name }
  table   = { TableName = aws_dynamodb_table.heads.name }

  # name = [description, namespace, metric, dimensions, statistic, minutes, comparison, threshold]
  platform_alarms = {
    lb-5xx            = ["The load balancer found no task to answer", "AWS/ApplicationELB", "HTTPCode_ELB_5XX_Count", local.lb, "Sum", 5, "GreaterThanThreshold", 10]
    unhealthy         = ["A task fails its health check", "AWS/ApplicationELB", "UnHealthyHostCount", local.targets, "Maximum", 5, "GreaterThanThreshold", 0]
    slow              = ["One request in a hundred takes over 10 s", "AWS/ApplicationELB", "TargetResponseTime", local.lb, "p99", 15, "GreaterThanThreshold", 10]
    cpu               = ["Tasks are busy though autoscaling is on", "AWS/ECS", "CPUUtilization", local.service, "Average", 15, "GreaterThanThreshold", 85]
    memory            = ["Tasks run out of memory", "AWS/ECS", "MemoryUtilization", local.service, "Maximum", 5, "GreaterThanThreshold", 90]
    few-tasks         = ["Fewer tasks run than min_tasks", "ECS/ContainerInsights", "RunningTaskCount", local.service, "Minimum", 10, "LessThanThreshold", var.min_tasks]
    table-throttled   = ["DynamoDB refuses requests of the table", "AWS/DynamoDB", "ThrottledRequests", local.table, "Sum", 5, "GreaterThanThreshold", 10]
    table-unavailable = ["DynamoDB has errors of its own", "AWS/DynamoDB", "SystemErrors", local.table, "Sum", 5, "GreaterThanThreshold", 0]
  }
}

resource "aws_cloudwatch_metric_alarm" "platform" {
  for_each            = local.platform_alarms
  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value[0]
  namespace           = each.value[1]
  metric_name         = each.value[2]
  dimensions          = each.value[3]
  statistic           = startswith(each.value[4], "p") ? null : each.value[4]
  extended_statistic  = startswith(each.value[4], "p") ? each.value[4] : null
  period              = 60
  evaluation_periods  = each.value[5]
  comparison_operator = each.value[6]
  threshold           = each.value[7]
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
  tags                = local.tags
}

locals {
  widgets = [
    { title = "Syncs and conflicts", metrics = [[local.namespace, "syncs-finished"], [local.namespace, "sync-conflicts"], [local.namespace, "logins-refused"]], stat = "Sum" },
    { title = "Errors", metrics = [[local.namespace, "server-errors"], [local.namespace, "backend-away"], [local.namespace, "corrupt-storage"], [local.namespace, "replay-differs"]], stat = "Sum" },
    { title = "Response time p99", metrics = [["AWS/ApplicationELB", "TargetResponseTime", "LoadBalancer", aws_lb.this.arn_suffix]], stat = "p99" },
    { title = "Requests", metrics = [["AWS/ApplicationELB", "RequestCount", "LoadBalancer", aws_lb.this.arn_suffix]], stat = "Sum" },
    { title = "Tasks", metrics = [["AWS/ECS", "CPUUtilization", "ClusterName", aws_ecs_cluster.this.name, "ServiceName", var.name], ["AWS/ECS", "MemoryUtilization", "ClusterName", aws_ecs_cluster.this.name, "ServiceName", var.name]], stat = "Average" },
    { title = "Table", metrics = [["AWS/DynamoDB", "ConsumedWriteCapacityUnits", "TableName", aws_dynamodb_table.heads.name], ["AWS/DynamoDB", "ConsumedReadCapacityUnits", "TableName", aws_dynamodb_table.heads.name]], stat = "Sum" },
  ]
}

resource "aws_cloudwatch_dashboard" "this" {
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
        region  = local.region
        metrics = widget.metrics
        stat    = widget.stat
        period  = 300
        view    = "timeSeries"
      }
    }]
  })
}
