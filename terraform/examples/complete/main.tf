# Every switch, as a school of some thousand users might set them.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

# Access logs of the load balancer and of the bucket. Both services write with principals of their own, and the
# load balancer can only encrypt with the keys of S3.
resource "aws_s3_bucket" "logs" {
  #checkov:skip=CKV_AWS_18:these are the logs
  bucket = "${var.name}-access-logs"
}

resource "aws_s3_bucket_public_access_block" "logs" {
  bucket                  = aws_s3_bucket.logs.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_versioning" "logs" {
  bucket = aws_s3_bucket.logs.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "logs" {
  bucket = aws_s3_bucket.logs.id

  rule {
    id     = "a-year"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }

    expiration {
      days = 365
    }

    noncurrent_version_expiration {
      noncurrent_days = 30
    }
  }
}

data "aws_iam_policy_document" "logs" {
  statement {
    sid       = "LoadBalancer"
    actions   = ["s3:PutObject"]
    resources = ["${aws_s3_bucket.logs.arn}/*"]

    principals {
      type        = "Service"
      identifiers = ["logdelivery.elasticloadbalancing.amazonaws.com"]
    }
  }

  statement {
    sid       = "Bucket"
    actions   = ["s3:PutObject"]
    resources = ["${aws_s3_bucket.logs.arn}/*"]

    principals {
      type        = "Service"
      identifiers = ["logging.s3.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

resource "aws_s3_bucket_policy" "logs" {
  bucket = aws_s3_bucket.logs.bucket
  policy = data.aws_iam_policy_document.logs.json
}

module "ankisyncd" {
  source                   = "../.."
  name                     = var.name
  domain_name              = var.domain_name
  zone_id                  = var.zone_id
  image                    = var.image
  permissions_boundary_arn = "arn:${data.aws_partition.current.partition}:iam::${data.aws_caller_identity.current.account_id}:policy/boundary"
  zone_count               = 3
  nat                      = "per_zone"
  ipv6                     = true
  flow_logs                = true
  architecture             = "X86_64"
  task_cpu                 = 2048
  task_memory_mib          = 4096
  task_storage_gib         = 100
  min_tasks                = 3
  max_tasks                = 30
  max_sync_payload_megs    = 200
  execute_command          = true
  history_days             = 60
  create_kms_key           = true
  managed_login            = { domain = var.name }
  self_sign_up             = true
  mfa                      = "ON"
  log_retention_days       = 365
  alarm_emails             = ["operations@school.example"]
  monthly_budget_usd       = 400
  access_logs_bucket       = aws_s3_bucket_policy.logs.bucket # the policy, so that it is there first
  login_rate_limit         = 300
  tags                     = { Owner = "it" }

  email = {
    from         = "Anki <anki@school.example>"
    identity_arn = "arn:${data.aws_partition.current.partition}:ses:eu-central-1:${data.aws_caller_identity.current.account_id}:identity/school.example"
  }
}

output "endpoint" {
  description = "Address to enter in Anki."
  value       = module.ankisyncd.endpoint
}

output "login_pages" {
  description = "Where people sign up."
  value       = module.ankisyncd.login_pages
}
