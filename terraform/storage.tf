# One bucket for collections and media, one table for their heads and the host keys.

resource "aws_s3_bucket" "store" {
  count         = var.create_bucket ? 1 : 0
  region        = var.region
  bucket        = var.bucket_name
  bucket_prefix = var.bucket_name == null ? "${var.name}-" : null
  force_destroy = !var.deletion_protection
  tags          = local.tags
}

resource "aws_s3_bucket_public_access_block" "store" {
  count                   = var.create_bucket ? 1 : 0
  region                  = var.region
  bucket                  = aws_s3_bucket.store[0].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "store" {
  count  = var.create_bucket ? 1 : 0
  region = var.region
  bucket = aws_s3_bucket.store[0].id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "store" {
  count  = var.create_bucket ? 1 : 0
  region = var.region
  bucket = aws_s3_bucket.store[0].id

  rule {
    bucket_key_enabled = local.has_key

    apply_server_side_encryption_by_default {
      sse_algorithm     = local.has_key ? "aws:kms" : "AES256"
      kms_master_key_id = local.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_versioning" "store" {
  count  = var.create_bucket ? 1 : 0
  region = var.region
  bucket = aws_s3_bucket.store[0].id

  versioning_configuration {
    status = "Enabled"
  }
}

# The server itself deletes objects that no version of the last history_days needs. These rules remove what a
# deletion leaves in a versioned bucket: the deleted object is kept for deleted_objects_days more.
resource "aws_s3_bucket_lifecycle_configuration" "store" {
  count      = var.create_bucket ? 1 : 0
  region     = var.region
  bucket     = aws_s3_bucket.store[0].id
  depends_on = [aws_s3_bucket_versioning.store]

  rule {
    id     = "parts-of-uploads-that-died"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }

  rule {
    id     = "deleted-and-overwritten"
    status = "Enabled"

    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.deleted_objects_days
    }

    expiration {
      expired_object_delete_marker = true
    }
  }
}

# For our bucket, and for its copy in a second region.
data "aws_iam_policy_document" "bucket" {
  for_each = merge(
    var.create_bucket ? { store = aws_s3_bucket.store[0].arn } : {},
    var.replica == null ? {} : { replica = aws_s3_bucket.replica[0].arn },
  )

  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [each.value, "${each.value}/*"]

    principals {
      type        = "AWS"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }

  statement {
    sid       = "Tls12OrNewer"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [each.value, "${each.value}/*"]

    principals {
      type        = "AWS"
      identifiers = ["*"]
    }

    condition {
      test     = "NumericLessThan"
      variable = "s3:TlsVersion"
      values   = ["1.2"]
    }
  }
}

resource "aws_s3_bucket_policy" "store" {
  count      = var.create_bucket ? 1 : 0
  region     = var.region
  bucket     = aws_s3_bucket.store[0].id
  policy     = data.aws_iam_policy_document.bucket["store"].json
  depends_on = [aws_s3_bucket_public_access_block.store]
}

resource "aws_s3_bucket_logging" "store" {
  count         = var.create_bucket && var.access_logs_bucket != null ? 1 : 0
  region        = var.region
  bucket        = aws_s3_bucket.store[0].id
  target_bucket = var.access_logs_bucket
  target_prefix = "${var.name}/s3/"
}

resource "aws_dynamodb_table" "heads" {
  count                       = var.create_table ? 1 : 0
  region                      = var.region
  name                        = coalesce(var.table_name, "${var.name}-heads")
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "pk"
  deletion_protection_enabled = var.deletion_protection
  tags                        = local.tags

  attribute {
    name = "pk"
    type = "S"
  }

  attribute {
    name = "listing"
    type = "S"
  }

  # Keys alone: syncs do not write it, and maintenance finds all databases without a scan. hash_key and
  # range_key, not key_schema, as long as versions.tf allows a provider older than 6.29.
  global_secondary_index {
    name            = "listing"
    hash_key        = "listing"
    range_key       = "pk"
    projection_type = "KEYS_ONLY"
  }

  # Unused host keys expire. DynamoDB removes them late, so the server compares the time, too.
  ttl {
    attribute_name = "expires"
    enabled        = true
  }

  point_in_time_recovery {
    enabled = true
  }

  # Off is a key owned by AWS. On without a key would be the managed one, whose calls are billed.
  server_side_encryption {
    enabled     = local.has_key
    kms_key_arn = local.kms_key_arn
  }

  # A copy in a second region, seconds behind. What that needs is a stream of changes.
  stream_enabled   = var.replica != null
  stream_view_type = var.replica == null ? null : "NEW_AND_OLD_IMAGES"

  dynamic "replica" {
    for_each = var.replica == null ? [] : [var.replica]

    content {
      region_name                 = replica.value.region
      kms_key_arn                 = replica.value.kms_key_arn
      deletion_protection_enabled = var.deletion_protection
      point_in_time_recovery      = true
      propagate_tags              = true
    }
  }
}
