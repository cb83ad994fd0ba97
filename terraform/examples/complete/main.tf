# Every switch, as a school of some thousand users might set them.

data "aws_caller_identity" "current" {}

data "aws_region" "current" {}

# Roles of the account use the key by their own policies; logs and alarms come from services.
data "aws_iam_policy_document" "key" {
  #checkov:skip=CKV_AWS_109:in a key's policy * is the key itself
  #checkov:skip=CKV_AWS_111:in a key's policy * is the key itself
  #checkov:skip=CKV_AWS_356:in a key's policy * is the key itself
  statement {
    sid       = "Account"
    actions   = ["kms:*"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = ["arn:aws:iam::${data.aws_caller_identity.current.account_id}:root"]
    }
  }

  statement {
    sid       = "Services"
    actions   = ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"]
    resources = ["*"]

    principals {
      type        = "Service"
      identifiers = ["cloudwatch.amazonaws.com", "logs.${data.aws_region.current.region}.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

resource "aws_kms_key" "this" {
  description         = "Collections, heads, logs and secrets of the sync service"
  enable_key_rotation = true
  policy              = data.aws_iam_policy_document.key.json
}

module "ankisyncd" {
  source                = "../.."
  name                  = "school-sync"
  domain_name           = "sync.school.example"
  zone_id               = "Z0123456789ABCDEFGHIJ"
  image                 = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/ankisyncd:0.1.0"
  zone_count            = 3
  nat                   = "per_zone"
  flow_logs             = true
  architecture          = "X86_64"
  task_cpu              = 2048
  task_memory_mib       = 4096
  task_storage_gib      = 100
  min_tasks             = 3
  max_tasks             = 30
  max_sync_payload_megs = 200
  history_days          = 60
  kms_key_arn           = aws_kms_key.this.arn
  mfa                   = "OPTIONAL"
  log_retention_days    = 365
  alarm_emails          = ["operations@school.example"]
  access_logs_bucket    = "school-access-logs"
  login_rate_limit      = 300
  tags                  = { Owner = "it" }
}

output "endpoint" {
  description = "Address to enter in Anki."
  value       = module.ankisyncd.endpoint
}
