# The service in the second region, upon the copies that examples/second-region keeps there. Applied only when the
# first region is gone; the values are those of the other's output second_region.

variable "bucket_name" {
  description = "Copy of the bucket."
  type        = string
  default     = "ankisyncd-replica-0123456789"
}

variable "user_pool" {
  description = "The user pool and its client; the secret is the copy in this region."
  type = object({
    id                = string
    client_id         = string
    client_secret_arn = string
  })
  default = {
    id                = "eu-west-1_AbCdEf123"
    client_id         = "1h57kf5cpq17m0eml12EXAMPLE"
    client_secret_arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:ankisyncd-cognito-client-AbCdEf"
  }
}

provider "aws" {
  region = "eu-west-1"
}

module "ankisyncd" {
  source        = "../.."
  domain_name   = "sync.example.com"
  zone_id       = "Z0123456789ABCDEFGHIJ"
  name          = "ankisyncd-standby" # roles and records are global: other names than in the first region
  image         = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/ankisyncd:0.1.0"
  create_bucket = false
  bucket_name   = var.bucket_name
  create_table  = false
  table_name    = "ankisyncd-heads"
  user_pool     = var.user_pool
  alarm_emails  = ["operations@example.com"]
}

output "endpoint" {
  description = "Address to enter in Anki; the same as before."
  value       = module.ankisyncd.endpoint
}
