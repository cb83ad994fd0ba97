# The three that must be chosen -------------------------------------------------------------------

variable "domain_name" {
  description = "Host name that people enter in Anki, for example sync.example.com."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z]{2,}$", var.domain_name))
    error_message = "domain_name must be a lower-case host name such as sync.example.com, without scheme, port or path."
  }
}

variable "image" {
  description = "Container image of the server with a tag or digest, for example 123456789012.dkr.ecr.eu-central-1.amazonaws.com/ankisyncd:0.1.0."
  type        = string

  validation {
    condition     = can(regex("^[^:@ ]+(:[0-9]+/[^:@ ]+)?(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|@sha256:[0-9a-f]{64})$", var.image)) && !endswith(var.image, ":latest")
    error_message = "image must name a tag other than latest, or a digest, so that a restart never changes the version."
  }
}

variable "zone_id" {
  description = "Route 53 hosted zone in which the record of domain_name and the certificate's validation are made. Leave null to give certificate_arn and make the record yourself."
  type        = string
  default     = null

  validation {
    condition     = var.zone_id == null || can(regex("^Z[A-Z0-9]{3,31}$", var.zone_id))
    error_message = "zone_id must be the id of a hosted zone, such as Z0123456789ABCDEFGHIJ."
  }
}

variable "certificate_arn" {
  description = "Existing ACM certificate for domain_name, in the region of the load balancer. Null: one is issued and validated in zone_id."
  type        = string
  default     = null

  validation {
    condition     = var.certificate_arn == null || can(regex("^arn:aws[a-z-]*:acm:[a-z0-9-]+:[0-9]{12}:certificate/.+$", var.certificate_arn))
    error_message = "certificate_arn must be the ARN of an ACM certificate."
  }

  validation {
    condition     = var.certificate_arn != null || var.zone_id != null
    error_message = "Give zone_id (a certificate is issued there) or certificate_arn (one that you have)."
  }
}

# Names -------------------------------------------------------------------------------------------

variable "name" {
  description = "Prefix of all names."
  type        = string
  default     = "ankisyncd"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 20 lower-case letters, digits and hyphens, beginning with a letter."
  }
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
}

# Network -----------------------------------------------------------------------------------------

variable "network" {
  description = "An existing network to use. Null: a VPC with public and private subnets is made."
  type = object({
    vpc_id             = string
    public_subnet_ids  = list(string)
    private_subnet_ids = list(string)
  })
  default = null

  validation {
    condition     = var.network == null || try(length(var.network.public_subnet_ids) >= 2 && length(var.network.private_subnet_ids) >= 2, false)
    error_message = "A load balancer needs at least two public subnets, and the service at least two subnets, in different zones."
  }
}

variable "vpc_cidr" {
  description = "Address range of the VPC that is made."
  type        = string
  default     = "10.42.0.0/16"

  validation {
    condition     = can(cidrhost(var.vpc_cidr, 0)) && try(tonumber(split("/", var.vpc_cidr)[1]) <= 22, false)
    error_message = "vpc_cidr must be an IPv4 range of at least /22, such as 10.42.0.0/16."
  }
}

variable "zone_count" {
  description = "Availability zones to spread over in the VPC that is made."
  type        = number
  default     = 2

  validation {
    condition     = contains([2, 3], var.zone_count)
    error_message = "zone_count must be 2 or 3."
  }
}

variable "nat" {
  description = "How tasks reach Cognito, ECR and the logs: none (public addresses on the tasks, no inbound rule; cheapest), single (one NAT gateway) or per_zone."
  type        = string
  default     = "none"

  validation {
    condition     = contains(["none", "single", "per_zone"], var.nat)
    error_message = "nat must be none, single or per_zone."
  }
}

variable "allowed_cidrs" {
  description = "IPv4 ranges that may reach the load balancer."
  type        = list(string)
  default     = ["0.0.0.0/0"]

  validation {
    condition     = length(var.allowed_cidrs) > 0 && alltrue([for cidr in var.allowed_cidrs : can(cidrhost(cidr, 0))])
    error_message = "allowed_cidrs must be a non-empty list of IPv4 ranges."
  }
}

# Service -----------------------------------------------------------------------------------------

variable "architecture" {
  description = "Processor of the tasks; the image must have it. ARM64 costs about a fifth less."
  type        = string
  default     = "ARM64"

  validation {
    condition     = contains(["ARM64", "X86_64"], var.architecture)
    error_message = "architecture must be ARM64 or X86_64."
  }
}

variable "task_cpu" {
  description = "CPU units of a task; 1024 is one processor. One worker process is started per processor."
  type        = number
  default     = 1024

  validation {
    condition     = contains([512, 1024, 2048, 4096, 8192, 16384], var.task_cpu)
    error_message = "task_cpu must be 512, 1024, 2048, 4096, 8192 or 16384."
  }
}

variable "task_memory_mib" {
  description = "Memory of a task in MiB; must be one that Fargate offers for task_cpu."
  type        = number
  default     = 2048

  validation {
    condition     = var.task_memory_mib >= 2 * var.task_cpu && var.task_memory_mib <= 8 * var.task_cpu && var.task_memory_mib % 1024 == 0
    error_message = "task_memory_mib must be a multiple of 1024 from 2 to 8 times task_cpu."
  }
}

variable "task_storage_gib" {
  description = "Scratch disk of a task in GiB: cached collections and uploads in work."
  type        = number
  default     = 40

  validation {
    condition     = var.task_storage_gib >= 21 && var.task_storage_gib <= 200
    error_message = "task_storage_gib must be 21 to 200."
  }
}

variable "min_tasks" {
  description = "Tasks that always run."
  type        = number
  default     = 2

  validation {
    condition     = var.min_tasks >= 1 && floor(var.min_tasks) == var.min_tasks
    error_message = "min_tasks must be a whole number of at least 1."
  }
}

variable "max_tasks" {
  description = "Tasks that autoscaling may reach."
  type        = number
  default     = 10

  validation {
    condition     = var.max_tasks >= var.min_tasks
    error_message = "max_tasks must not be below min_tasks."
  }
}

variable "requests_per_task" {
  description = "Requests per minute and task that autoscaling aims at."
  type        = number
  default     = 6000

  validation {
    condition     = var.requests_per_task >= 100
    error_message = "requests_per_task must be at least 100."
  }
}

variable "max_sync_payload_megs" {
  description = "MAX_SYNC_PAYLOAD_MEGS of the server: uploads may be three times this size unpacked, in MiB."
  type        = number
  default     = 100

  validation {
    condition     = var.max_sync_payload_megs >= 1 && var.max_sync_payload_megs <= 2000
    error_message = "max_sync_payload_megs must be 1 to 2000."
  }
}

variable "log_level" {
  description = "ANKISYNCD_LOG_LEVEL of the server."
  type        = string
  default     = "info"

  validation {
    condition     = contains(["debug", "info", "warning", "error"], var.log_level)
    error_message = "log_level must be debug, info, warning or error."
  }
}

variable "environment" {
  description = "Further settings of the server, by name. No secrets: they would stand in the task definition."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.environment) : !contains(["COGNITO_CLIENT_SECRET", "ANKISYNCD_BACKEND", "ANKISYNCD_S3_BUCKET", "ANKISYNCD_DYNAMODB_TABLE"], name)])
    error_message = "environment must not replace what this module sets, nor hold secrets."
  }
}

# Storage -----------------------------------------------------------------------------------------

variable "history_days" {
  description = "How long old versions of collections and deleted objects can be brought back."
  type        = number
  default     = 30

  validation {
    condition     = var.history_days >= 1 && var.history_days <= 365
    error_message = "history_days must be 1 to 365."
  }
}

variable "kms_key_arn" {
  description = "Customer key for bucket, table, logs and secrets. Null: keys owned by AWS."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a KMS key."
  }
}

variable "deletion_protection" {
  description = "Refuse to destroy bucket contents, table, user pool and load balancer. Set to false and apply before destroying."
  type        = bool
  default     = true
}

# Login -------------------------------------------------------------------------------------------

variable "mfa" {
  description = "Second factor of the user pool: OFF or OPTIONAL. Anki sends two fields only, so people with a time-based code append it to the password."
  type        = string
  default     = "OFF"

  validation {
    condition     = contains(["OFF", "OPTIONAL"], var.mfa)
    error_message = "mfa must be OFF or OPTIONAL: Anki cannot answer a challenge, so ON would lock people out."
  }
}

variable "self_sign_up" {
  description = "Let strangers make accounts in the user pool."
  type        = bool
  default     = false
}

variable "device_days" {
  description = "Days after which a device has to log in again."
  type        = number
  default     = 365

  validation {
    condition     = var.device_days >= 1 && var.device_days <= 3650
    error_message = "device_days must be 1 to 3650."
  }
}

# Watching ----------------------------------------------------------------------------------------

variable "log_retention_days" {
  description = "Days that logs are kept."
  type        = number
  default     = 90

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.log_retention_days)
    error_message = "log_retention_days must be one that CloudWatch offers, such as 30, 90 or 365."
  }
}

variable "alarm_emails" {
  description = "Addresses that alarms are sent to; each gets a message to confirm."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for address in var.alarm_emails : can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", address))])
    error_message = "alarm_emails must be e-mail addresses."
  }
}

variable "access_logs_bucket" {
  description = "Existing bucket for the load balancer's and the storage bucket's access logs. Null: none are kept."
  type        = string
  default     = null
}

variable "flow_logs" {
  description = "Keep flow logs of the VPC that is made."
  type        = bool
  default     = false
}

variable "waf" {
  description = "Put a web ACL in front: login rate limit, known bad addresses and inputs."
  type        = bool
  default     = true
}

variable "login_rate_limit" {
  description = "Logins that one address may try in five minutes."
  type        = number
  default     = 100

  validation {
    condition     = var.login_rate_limit >= 10 && var.login_rate_limit <= 20000
    error_message = "login_rate_limit must be 10 to 20000."
  }
}
