# An Anki sync service on AWS: load balancer, Fargate tasks, one bucket, one table, one user pool.
# Each of them can be made here or passed in; this file turns both into the same names.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {
  region = var.region
}

locals {
  account   = data.aws_caller_identity.current.account_id
  region    = data.aws_region.current.region
  partition = data.aws_partition.current.partition

  tags = merge({ Application = var.name }, var.tags)
  port = 8080

  vpc_id             = var.network == null ? aws_vpc.this[0].id : var.network.vpc_id
  public_subnet_ids  = var.network == null ? aws_subnet.public[*].id : var.network.public_subnet_ids
  private_subnet_ids = var.network == null ? aws_subnet.private[*].id : var.network.private_subnet_ids

  # Without NAT the tasks are in the public subnets, with addresses of their own and no inbound rule.
  tasks_are_public = var.network == null && var.nat == "none"
  task_subnet_ids  = local.tasks_are_public ? local.public_subnet_ids : local.private_subnet_ids

  load_balancer = var.load_balancer != null ? var.load_balancer : {
    arn               = aws_lb.this[0].arn
    listener_arn      = aws_lb_listener.https[0].arn
    security_group_id = aws_security_group.lb[0].id
    dns_name          = aws_lb.this[0].dns_name
    zone_id           = aws_lb.this[0].zone_id
    rule_priority     = null
  }
  load_balancer_suffix = var.load_balancer == null ? aws_lb.this[0].arn_suffix : element(split(":loadbalancer/", var.load_balancer.arn), 1)

  cluster_arn  = var.cluster_arn == null ? aws_ecs_cluster.this[0].arn : var.cluster_arn
  cluster_name = var.cluster_arn == null ? aws_ecs_cluster.this[0].name : element(split("/", var.cluster_arn), 1)

  bucket     = var.create_bucket ? aws_s3_bucket.store[0].id : var.bucket_name
  bucket_arn = var.create_bucket ? aws_s3_bucket.store[0].arn : "arn:${local.partition}:s3:::${var.bucket_name}"
  table      = var.create_table ? aws_dynamodb_table.heads[0].name : var.table_name
  table_arn  = var.create_table ? aws_dynamodb_table.heads[0].arn : "arn:${local.partition}:dynamodb:${local.region}:${local.account}:table/${var.table_name}"

  # The first part of a pool's id is its region.
  user_pool_id      = var.user_pool == null ? aws_cognito_user_pool.this[0].id : var.user_pool.id
  user_pool_region  = var.user_pool == null ? coalesce(var.user_pool_region, local.region) : element(split("_", var.user_pool.id), 0)
  user_pool_arn     = var.user_pool == null ? aws_cognito_user_pool.this[0].arn : "arn:${local.partition}:cognito-idp:${local.user_pool_region}:${local.account}:userpool/${var.user_pool.id}"
  own_client        = try(var.user_pool.client_id, null) == null
  client_id         = local.own_client ? aws_cognito_user_pool_client.server[0].id : var.user_pool.client_id
  client_secret_arn = local.own_client ? aws_secretsmanager_secret.client[0].arn : var.user_pool.client_secret_arn

  has_key     = var.create_kms_key || var.kms_key_arn != null
  kms_key_arn = var.create_kms_key ? aws_kms_key.this[0].arn : var.kms_key_arn
  topic_arn   = var.alarm_topic_arn == null ? aws_sns_topic.alarms[0].arn : var.alarm_topic_arn
}
