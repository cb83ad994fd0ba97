locals {
  # With a load balancer of others, its listener has a certificate unless zone_id or certificate_arn asks for one.
  own_certificate = var.certificate_arn == null && var.zone_id != null
  has_certificate = var.certificate_arn != null || local.own_certificate
  certificate_arn = local.own_certificate ? aws_acm_certificate_validation.this[0].certificate_arn : var.certificate_arn
}

resource "aws_acm_certificate" "this" {
  count             = local.own_certificate ? 1 : 0
  region            = var.region
  domain_name       = var.domain_name
  validation_method = "DNS"
  tags              = local.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_route53_record" "validation" {
  count           = local.own_certificate ? 1 : 0
  zone_id         = var.zone_id
  name            = one(aws_acm_certificate.this[0].domain_validation_options[*].resource_record_name)
  type            = one(aws_acm_certificate.this[0].domain_validation_options[*].resource_record_type)
  records         = aws_acm_certificate.this[0].domain_validation_options[*].resource_record_value
  ttl             = 300
  allow_overwrite = true
}

resource "aws_acm_certificate_validation" "this" {
  count                   = local.own_certificate ? 1 : 0
  region                  = var.region
  certificate_arn         = aws_acm_certificate.this[0].arn
  validation_record_fqdns = aws_route53_record.validation[*].fqdn
}

resource "aws_route53_record" "this" {
  for_each = var.zone_id == null ? toset([]) : toset(var.ipv6 ? ["A", "AAAA"] : ["A"])
  zone_id  = var.zone_id
  name     = var.domain_name
  type     = each.value

  alias {
    name                   = local.load_balancer.dns_name
    zone_id                = local.load_balancer.zone_id
    evaluate_target_health = true
  }
}
