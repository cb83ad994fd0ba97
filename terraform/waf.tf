# Clients take 403 for a wrong password and 400 for a damaged collection: both log a device out or make it sync
# in full. So nothing here answers with WAF's own 403. Logins beyond the limit get 429, as from the server
# itself, and the rest 503, upon which clients keep what they have and say that the server cannot be reached.
locals {
  waf = var.waf && var.load_balancer == null # a load balancer of others has the web ACL of others

  managed_rules = {
    bad-addresses = { priority = 2, group = "AWSManagedRulesAmazonIpReputationList" }
    bad-inputs    = { priority = 3, group = "AWSManagedRulesKnownBadInputsRuleSet" }
  }

  # The labels of both groups' blocking rules. Left out are those that look into bodies: a body is zstd and
  # comes with a key, and a false positive would stop the same sync at each attempt.
  blocked_labels = [
    "amazon-ip-list:AWSManagedIPReputationList",
    "amazon-ip-list:AWSManagedReconnaissanceList",
    "known-bad-inputs:ExploitablePaths_URIPath",
    "known-bad-inputs:Host_Localhost_Header",
    "known-bad-inputs:JavaDeserializationRCE_Header",
    "known-bad-inputs:JavaDeserializationRCE_QueryString",
    "known-bad-inputs:JavaDeserializationRCE_URIPath",
    "known-bad-inputs:Log4JRCE_Header",
    "known-bad-inputs:Log4JRCE_QueryString",
    "known-bad-inputs:Log4JRCE_URIPath",
    "known-bad-inputs:Propfind_Method",
  ]
}

resource "aws_wafv2_web_acl" "this" {
  count       = local.waf ? 1 : 0
  region      = var.region
  name        = var.name
  description = "In front of the sync service"
  scope       = "REGIONAL"
  tags        = local.tags

  default_action {
    allow {}
  }

  rule {
    name     = "logins"
    priority = 1

    action {
      block {
        custom_response {
          response_code = 429

          response_header {
            name  = "Retry-After"
            value = "300"
          }
        }
      }
    }

    statement {
      rate_based_statement {
        limit                 = var.login_rate_limit
        aggregate_key_type    = "IP"
        evaluation_window_sec = 300

        scope_down_statement {
          byte_match_statement {
            positional_constraint = "ENDS_WITH"
            search_string         = "/hostkey"

            field_to_match {
              uri_path {}
            }

            # The server decodes the path, so the rule must too: /sync/%68ostKey is a login.
            text_transformation {
              priority = 0
              type     = "URL_DECODE"
            }

            text_transformation {
              priority = 1
              type     = "LOWERCASE"
            }
          }
        }
      }
    }

    visibility_config {
      cloudwatch_metrics_enabled = true
      metric_name                = "${var.name}-logins"
      sampled_requests_enabled   = false
    }
  }

  # These only count and label: their own answer would be 403. The common rule set is left out, because its
  # SizeRestrictions_BODY blocks bodies over 8 KB, and that is every sync.
  dynamic "rule" {
    for_each = local.managed_rules

    content {
      name     = rule.key
      priority = rule.value.priority

      override_action {
        count {}
      }

      statement {
        managed_rule_group_statement {
          vendor_name = "AWS"
          name        = rule.value.group
        }
      }

      visibility_config {
        cloudwatch_metrics_enabled = true
        metric_name                = "${var.name}-${rule.key}"
        sampled_requests_enabled   = false
      }
    }
  }

  rule {
    name     = "labelled"
    priority = 4

    action {
      block {
        custom_response {
          response_code = 503

          response_header {
            name  = "Retry-After"
            value = "300"
          }
        }
      }
    }

    statement {
      or_statement {
        dynamic "statement" {
          for_each = local.blocked_labels

          content {
            label_match_statement {
              scope = "LABEL"
              key   = "awswaf:managed:aws:${statement.value}"
            }
          }
        }
      }
    }

    visibility_config {
      cloudwatch_metrics_enabled = true
      metric_name                = "${var.name}-labelled"
      sampled_requests_enabled   = false
    }
  }

  visibility_config {
    cloudwatch_metrics_enabled = true
    metric_name                = var.name
    sampled_requests_enabled   = false
  }
}

resource "aws_wafv2_web_acl_association" "this" {
  count        = local.waf ? 1 : 0
  region       = var.region
  resource_arn = local.load_balancer.arn
  web_acl_arn  = aws_wafv2_web_acl.this[0].arn
}

resource "aws_cloudwatch_log_group" "waf" {
  count             = local.waf ? 1 : 0
  region            = var.region
  name              = "aws-waf-logs-${var.name}" # the prefix is AWS's rule
  retention_in_days = var.log_retention_days
  kms_key_id        = local.kms_key_arn
  tags              = local.tags
}

resource "aws_wafv2_web_acl_logging_configuration" "this" {
  count                   = local.waf ? 1 : 0
  region                  = var.region
  resource_arn            = aws_wafv2_web_acl.this[0].arn
  log_destination_configs = [aws_cloudwatch_log_group.waf[0].arn]

  # The host key travels in this header, and in the query of an old client's begin.
  redacted_fields {
    single_header {
      name = "anki-sync"
    }
  }

  redacted_fields {
    query_string {}
  }
}
