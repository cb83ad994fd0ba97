resource "aws_lb" "this" {
  count              = var.load_balancer == null ? 1 : 0
  region             = var.region
  name               = var.name
  load_balancer_type = "application"
  internal           = false
  ip_address_type    = var.ipv6 ? "dualstack" : "ipv4"
  security_groups    = [aws_security_group.lb[0].id]
  subnets            = local.public_subnet_ids

  # A server that checks an upload or builds a download sends nothing for up to half a minute.
  idle_timeout               = 300
  client_keep_alive          = 3600
  enable_http2               = true
  enable_zonal_shift         = true
  drop_invalid_header_fields = true
  desync_mitigation_mode     = "defensive"
  enable_deletion_protection = var.deletion_protection
  tags                       = local.tags

  dynamic "access_logs" {
    for_each = var.access_logs_bucket == null ? [] : [var.access_logs_bucket]

    content {
      bucket  = access_logs.value
      prefix  = "${var.name}/lb"
      enabled = true
    }
  }

  dynamic "connection_logs" {
    for_each = var.access_logs_bucket == null ? [] : [var.access_logs_bucket]

    content {
      bucket  = connection_logs.value
      prefix  = "${var.name}/lb-connections"
      enabled = true
    }
  }
}

resource "aws_lb_target_group" "this" {
  region      = var.region
  name        = var.name
  vpc_id      = local.vpc_id
  target_type = "ip"
  protocol    = "HTTP"
  port        = local.port

  # ECS waits this long between taking a task out of the load balancer and SIGTERM, so it is the time that
  # a running transfer has to end. It ends sooner if no request is left.
  deregistration_delay          = var.drain_seconds
  load_balancing_algorithm_type = "least_outstanding_requests"
  tags                          = local.tags

  health_check {
    path                = "/health"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }
}

# There is no listener on port 80: a redirect would turn a sync's POST into a GET and lose its body.
resource "aws_lb_listener" "https" {
  count             = var.load_balancer == null ? 1 : 0
  region            = var.region
  load_balancer_arn = aws_lb.this[0].arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = local.certificate_arn
  tags              = local.tags

  # The load balancer sets these on every answer, its own errors included.
  routing_http_response_strict_transport_security_header_value = "max-age=31536000"
  routing_http_response_x_content_type_options_header_value    = "nosniff"
  routing_http_response_x_frame_options_header_value           = "DENY"
  routing_http_response_server_enabled                         = false

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this.arn
  }
}

# On a load balancer of others: the requests for our host name, and a certificate for it if one was given or is made.
resource "aws_lb_listener_rule" "this" {
  count        = var.load_balancer == null ? 0 : 1
  region       = var.region
  listener_arn = var.load_balancer.listener_arn
  priority     = var.load_balancer.rule_priority
  tags         = local.tags

  action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this.arn
  }

  condition {
    host_header {
      values = [var.domain_name]
    }
  }
}

resource "aws_lb_listener_certificate" "this" {
  count           = var.load_balancer != null && local.has_certificate ? 1 : 0
  region          = var.region
  listener_arn    = var.load_balancer.listener_arn
  certificate_arn = local.certificate_arn
}
