# A second region on request: a copy of the bucket here, one of the table in storage.tf, and the secret of the
# pool's client in cognito.tf. README.md, "When a region is gone", has the order of steps.

resource "aws_s3_bucket" "replica" {
  count         = var.replica == null ? 0 : 1
  region        = var.replica.region
  bucket_prefix = "${var.name}-replica-"
  force_destroy = !var.deletion_protection
  tags          = local.tags
}

resource "aws_s3_bucket_public_access_block" "replica" {
  count                   = var.replica == null ? 0 : 1
  region                  = var.replica.region
  bucket                  = aws_s3_bucket.replica[0].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "replica" {
  count  = var.replica == null ? 0 : 1
  region = var.replica.region
  bucket = aws_s3_bucket.replica[0].id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "replica" {
  count  = var.replica == null ? 0 : 1
  region = var.replica.region
  bucket = aws_s3_bucket.replica[0].id

  rule {
    bucket_key_enabled = var.replica.kms_key_arn != null

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.replica.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.replica.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_versioning" "replica" {
  count  = var.replica == null ? 0 : 1
  region = var.replica.region
  bucket = aws_s3_bucket.replica[0].id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "replica" {
  count      = var.replica == null ? 0 : 1
  region     = var.replica.region
  bucket     = aws_s3_bucket.replica[0].id
  depends_on = [aws_s3_bucket_versioning.replica]

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

resource "aws_s3_bucket_policy" "replica" {
  count      = var.replica == null ? 0 : 1
  region     = var.replica.region
  bucket     = aws_s3_bucket.replica[0].id
  policy     = data.aws_iam_policy_document.bucket["replica"].json
  depends_on = [aws_s3_bucket_public_access_block.replica]
}

# Deletions are copied too, as markers: the copy keeps a deleted object as long as the original does.
resource "aws_s3_bucket_replication_configuration" "this" {
  count      = var.replica == null ? 0 : 1
  region     = var.region
  bucket     = aws_s3_bucket.store[0].id
  role       = aws_iam_role.replication[0].arn
  depends_on = [aws_s3_bucket_versioning.store, aws_s3_bucket_versioning.replica, aws_iam_role_policy.replication]

  rule {
    id       = "everything"
    status   = "Enabled"
    priority = 1

    filter {}

    delete_marker_replication {
      status = "Enabled"
    }

    dynamic "source_selection_criteria" {
      for_each = var.replica.kms_key_arn == null ? [] : [1]

      content {
        sse_kms_encrypted_objects {
          status = "Enabled"
        }
      }
    }

    destination {
      bucket = aws_s3_bucket.replica[0].arn

      metrics {
        status = "Enabled"
      }

      dynamic "encryption_configuration" {
        for_each = var.replica.kms_key_arn == null ? [] : [var.replica.kms_key_arn]

        content {
          replica_kms_key_id = encryption_configuration.value
        }
      }
    }
  }
}

data "aws_iam_policy_document" "assume_replication" {
  count = var.replica == null ? 0 : 1

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["s3.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_iam_role" "replication" {
  count                = var.replica == null ? 0 : 1
  name_prefix          = "${var.name}-replication-"
  assume_role_policy   = data.aws_iam_policy_document.assume_replication[0].json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = local.tags
}

data "aws_iam_policy_document" "replication" {
  count = var.replica == null ? 0 : 1

  statement {
    sid       = "Source"
    actions   = ["s3:GetReplicationConfiguration", "s3:ListBucket"]
    resources = [local.bucket_arn]
  }

  statement {
    sid       = "Read"
    actions   = ["s3:GetObjectVersionAcl", "s3:GetObjectVersionForReplication", "s3:GetObjectVersionTagging"]
    resources = ["${local.bucket_arn}/*"]
  }

  statement {
    sid       = "Write"
    actions   = ["s3:ReplicateDelete", "s3:ReplicateObject", "s3:ReplicateTags"]
    resources = ["${aws_s3_bucket.replica[0].arn}/*"]
  }

  dynamic "statement" {
    for_each = local.has_key ? [local.kms_key_arn] : []

    content {
      sid       = "SourceKey"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }

  dynamic "statement" {
    for_each = var.replica.kms_key_arn == null ? [] : [var.replica.kms_key_arn]

    content {
      sid       = "ReplicaKey"
      actions   = ["kms:Encrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role_policy" "replication" {
  count  = var.replica == null ? 0 : 1
  name   = "replication"
  role   = aws_iam_role.replication[0].id
  policy = data.aws_iam_policy_document.replication[0].json
}
