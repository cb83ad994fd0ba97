# An Anki sync service on AWS: load balancer, Fargate tasks, one bucket, one table, one user pool.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  region    = data.aws_region.current.region
  partition = data.aws_partition.current.partition
  dns       = data.aws_partition.current.dns_suffix

  tags = merge({ Application = var.name }, var.tags)
  port = 8080

  # Both shapes of network meet here; nothing else asks which one it is.
  vpc_id             = var.network == null ? aws_vpc.this[0].id : var.network.vpc_id
  public_subnet_ids  = var.network == null ? aws_subnet.public[*].id : var.network.public_subnet_ids
  private_subnet_ids = var.network == null ? aws_subnet.private[*].id : var.network.private_subnet_ids

  # Without NAT the tasks stand in the public subnets, with addresses of their own and no way in.
  tasks_are_public = var.network == null && var.nat == "none"
  task_subnet_ids  = local.tasks_are_public ? local.public_subnet_ids : local.private_subnet_ids
}
