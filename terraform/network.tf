# Without the filter the names of Local Zones are in the list, and sort before those of the region's own.
data "aws_availability_zones" "available" {
  count  = var.network == null && var.zones == null ? 1 : 0
  region = var.region
  state  = "available"

  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }
}

locals {
  zone_count = var.zones == null ? var.zone_count : length(var.zones)
  zones = var.network != null ? [] : (
    var.zones != null ? var.zones : slice(data.aws_availability_zones.available[0].names, 0, var.zone_count)
  )
  nat_count = var.network != null ? 0 : { none = 0, single = 1, per_zone = local.zone_count }[var.nat]
}

resource "aws_vpc" "this" {
  count                            = var.network == null ? 1 : 0
  region                           = var.region
  cidr_block                       = var.vpc_cidr
  assign_generated_ipv6_cidr_block = var.ipv6
  enable_dns_hostnames             = true
  enable_dns_support               = true
  tags                             = merge(local.tags, { Name = var.name })
}

# The group that everything without a group would get lets nothing through.
resource "aws_default_security_group" "closed" {
  count  = var.network == null ? 1 : 0
  region = var.region
  vpc_id = aws_vpc.this[0].id
  tags   = merge(local.tags, { Name = "${var.name}-default-closed" })
}

resource "aws_subnet" "public" {
  count             = var.network == null ? local.zone_count : 0
  region            = var.region
  vpc_id            = aws_vpc.this[0].id
  availability_zone = local.zones[count.index]
  cidr_block        = cidrsubnet(var.vpc_cidr, 4, count.index)
  ipv6_cidr_block   = var.ipv6 ? cidrsubnet(aws_vpc.this[0].ipv6_cidr_block, 8, count.index) : null
  tags              = merge(local.tags, { Name = "${var.name}-public-${local.zones[count.index]}" })
}

resource "aws_subnet" "private" {
  count             = var.network == null ? local.zone_count : 0
  region            = var.region
  vpc_id            = aws_vpc.this[0].id
  availability_zone = local.zones[count.index]
  cidr_block        = cidrsubnet(var.vpc_cidr, 4, count.index + 8)
  tags              = merge(local.tags, { Name = "${var.name}-private-${local.zones[count.index]}" })
}

resource "aws_internet_gateway" "this" {
  count  = var.network == null ? 1 : 0
  region = var.region
  vpc_id = aws_vpc.this[0].id
  tags   = merge(local.tags, { Name = var.name })
}

resource "aws_route_table" "public" {
  count  = var.network == null ? 1 : 0
  region = var.region
  vpc_id = aws_vpc.this[0].id
  tags   = merge(local.tags, { Name = "${var.name}-public" })
}

resource "aws_route" "internet" {
  count                  = var.network == null ? 1 : 0
  region                 = var.region
  route_table_id         = aws_route_table.public[0].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this[0].id
}

resource "aws_route" "internet_ipv6" {
  count                       = var.network == null && var.ipv6 ? 1 : 0
  region                      = var.region
  route_table_id              = aws_route_table.public[0].id
  destination_ipv6_cidr_block = "::/0"
  gateway_id                  = aws_internet_gateway.this[0].id
}

resource "aws_route_table_association" "public" {
  count          = var.network == null ? local.zone_count : 0
  region         = var.region
  subnet_id      = aws_subnet.public[count.index].id
  route_table_id = aws_route_table.public[0].id
}

resource "aws_route_table" "private" {
  count  = var.network == null ? local.zone_count : 0
  region = var.region
  vpc_id = aws_vpc.this[0].id
  tags   = merge(local.tags, { Name = "${var.name}-private-${local.zones[count.index]}" })
}

resource "aws_route_table_association" "private" {
  count          = var.network == null ? local.zone_count : 0
  region         = var.region
  subnet_id      = aws_subnet.private[count.index].id
  route_table_id = aws_route_table.private[count.index].id
}

resource "aws_eip" "nat" {
  count  = local.nat_count
  region = var.region
  domain = "vpc"
  tags   = merge(local.tags, { Name = "${var.name}-nat-${count.index}" })
}

resource "aws_nat_gateway" "this" {
  count         = local.nat_count
  region        = var.region
  allocation_id = aws_eip.nat[count.index].id
  subnet_id     = aws_subnet.public[count.index].id
  tags          = merge(local.tags, { Name = "${var.name}-${count.index}" })
  depends_on    = [aws_internet_gateway.this]
}

resource "aws_route" "nat" {
  count                  = local.nat_count > 0 ? local.zone_count : 0
  region                 = var.region
  route_table_id         = aws_route_table.private[count.index].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this[min(count.index, local.nat_count - 1)].id
}

# Collections and media go to S3 and DynamoDB by gateway: free, and not through NAT. The policies allow
# our bucket and table alone, and the bucket of AWS in which ECR keeps the layers of images.
data "aws_iam_policy_document" "s3_endpoint" {
  count = var.network == null ? 1 : 0

  statement {
    sid       = "OwnBucket"
    actions   = ["s3:*"]
    resources = [local.bucket_arn, "${local.bucket_arn}/*"]

    principals {
      type        = "AWS"
      identifiers = ["*"]
    }
  }

  statement {
    sid       = "ImageLayers"
    actions   = ["s3:GetObject"]
    resources = ["arn:${local.partition}:s3:::prod-${local.region}-starport-layer-bucket/*"]

    principals {
      type        = "AWS"
      identifiers = ["*"]
    }
  }
}

data "aws_iam_policy_document" "dynamodb_endpoint" {
  count = var.network == null ? 1 : 0

  statement {
    sid       = "OwnTable"
    actions   = ["dynamodb:*"]
    resources = [local.table_arn, "${local.table_arn}/index/*"]

    principals {
      type        = "AWS"
      identifiers = ["*"]
    }
  }
}

resource "aws_vpc_endpoint" "s3" {
  count             = var.network == null ? 1 : 0
  region            = var.region
  vpc_id            = aws_vpc.this[0].id
  service_name      = "com.amazonaws.${local.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = concat(aws_route_table.public[*].id, aws_route_table.private[*].id)
  policy            = data.aws_iam_policy_document.s3_endpoint[0].json
  tags              = merge(local.tags, { Name = "${var.name}-s3" })
}

resource "aws_vpc_endpoint" "dynamodb" {
  count             = var.network == null ? 1 : 0
  region            = var.region
  vpc_id            = aws_vpc.this[0].id
  service_name      = "com.amazonaws.${local.region}.dynamodb"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = concat(aws_route_table.public[*].id, aws_route_table.private[*].id)
  policy            = data.aws_iam_policy_document.dynamodb_endpoint[0].json
  tags              = merge(local.tags, { Name = "${var.name}-dynamodb" })
}

# Security groups ----------------------------------------------------------------------------------

resource "aws_security_group" "lb" {
  count       = var.load_balancer == null ? 1 : 0
  region      = var.region
  name_prefix = "${var.name}-lb-"
  description = "Load balancer of ${var.name}"
  vpc_id      = local.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-lb" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "lb_https" {
  for_each          = var.load_balancer == null ? toset(var.allowed_cidrs) : toset([])
  region            = var.region
  security_group_id = aws_security_group.lb[0].id
  description       = "HTTPS from clients"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = strcontains(each.value, ":") ? null : each.value
  cidr_ipv6         = strcontains(each.value, ":") ? each.value : null
  tags              = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "lb_https_from_list" {
  for_each          = var.load_balancer == null ? toset(var.allowed_prefix_lists) : toset([])
  region            = var.region
  security_group_id = aws_security_group.lb[0].id
  description       = "HTTPS from clients"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  prefix_list_id    = each.value
  tags              = local.tags
}

resource "aws_vpc_security_group_egress_rule" "lb_to_tasks" {
  region                       = var.region
  security_group_id            = local.load_balancer.security_group_id
  description                  = "Requests to the tasks of ${var.name}"
  ip_protocol                  = "tcp"
  from_port                    = local.port
  to_port                      = local.port
  referenced_security_group_id = aws_security_group.tasks.id
  tags                         = local.tags
}

resource "aws_security_group" "tasks" {
  region      = var.region
  name_prefix = "${var.name}-tasks-"
  description = "Tasks of ${var.name}"
  vpc_id      = local.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-tasks" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "tasks_from_lb" {
  region                       = var.region
  security_group_id            = aws_security_group.tasks.id
  description                  = "Requests from the load balancer alone"
  ip_protocol                  = "tcp"
  from_port                    = local.port
  to_port                      = local.port
  referenced_security_group_id = local.load_balancer.security_group_id
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "tasks_https" {
  region            = var.region
  security_group_id = aws_security_group.tasks.id
  description       = "AWS services"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = "0.0.0.0/0"
  tags              = local.tags
}

# Flow logs -----------------------------------------------------------------------------------------

resource "aws_cloudwatch_log_group" "flow" {
  count             = var.network == null && var.flow_logs ? 1 : 0
  region            = var.region
  name              = "/${var.name}/flow"
  retention_in_days = var.log_retention_days
  kms_key_id        = local.kms_key_arn
  tags              = local.tags
}

resource "aws_flow_log" "this" {
  count           = var.network == null && var.flow_logs ? 1 : 0
  region          = var.region
  vpc_id          = aws_vpc.this[0].id
  traffic_type    = "ALL"
  log_destination = aws_cloudwatch_log_group.flow[0].arn
  iam_role_arn    = aws_iam_role.flow[0].arn
  tags            = local.tags
}
