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
  description = "Container image of the server with a tag, a digest or both, for example 123456789012.dkr.ecr.eu-central-1.amazonaws.com/ankisyncd:0.1.0."
  type        = string

  validation {
    condition     = can(regex("^[^:@ ]+(:[0-9]+/[^:@ ]+)?(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(@sha256:[0-9a-f]{64})?|@sha256:[0-9a-f]{64})$", var.image)) && !endswith(var.image, ":latest")
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
    condition     = var.certificate_arn != null || var.zone_id != null || var.load_balancer != null
    error_message = "Give zone_id (a certificate is issued there), certificate_arn (one that you have) or load_balancer (whose listener has one)."
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

variable "region" {
  description = "Region of all resources. Null: the provider's."
  type        = string
  default     = null

  validation {
    condition     = var.region == null || can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be the code of a region, such as eu-central-1."
  }
}

variable "permissions_boundary_arn" {
  description = "Policy that is set as permissions boundary on every role, where an organisation asks for one."
  type        = string
  default     = null

  validation {
    condition     = var.permissions_boundary_arn == null || can(regex("^arn:aws[a-z-]*:iam::([0-9]{12}|aws):policy/.+$", var.permissions_boundary_arn))
    error_message = "permissions_boundary_arn must be the ARN of a policy."
  }
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

variable "zones" {
  description = "Names of the availability zones of the VPC that is made. Null: the first zone_count by name."
  type        = list(string)
  default     = null

  validation {
    condition     = var.zones == null || try(contains([2, 3], length(distinct(var.zones))) && length(var.zones) == length(distinct(var.zones)), false)
    error_message = "zones must be two or three different zones."
  }
}

variable "zone_count" {
  description = "Availability zones to spread over in the VPC that is made, if zones does not name them."
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

variable "ipv6" {
  description = "Give the load balancer IPv6 addresses too, and the name an AAAA record. A network of your own needs IPv6 in its public subnets."
  type        = bool
  default     = false
}

variable "allowed_cidrs" {
  description = "IPv4 and IPv6 ranges that may reach the load balancer."
  type        = list(string)
  default     = ["0.0.0.0/0", "::/0"]

  validation {
    condition     = length(var.allowed_cidrs) + length(var.allowed_prefix_lists) > 0 && alltrue([for cidr in var.allowed_cidrs : can(cidrhost(cidr, 0))])
    error_message = "allowed_cidrs must be IPv4 or IPv6 ranges, and it or allowed_prefix_lists must not be empty."
  }
}

variable "allowed_prefix_lists" {
  description = "Ids of prefix lists whose ranges may reach the load balancer too."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for id in var.allowed_prefix_lists : startswith(id, "pl-")])
    error_message = "allowed_prefix_lists must be ids such as pl-0123456789abcdef0."
  }
}

variable "load_balancer" {
  description = "An existing load balancer with an HTTPS listener; requests for domain_name are sent here by a rule. Null: one is made. Its idle timeout should be 300 s. Header settings, web ACL and alarms on its own errors stay with its owner."
  type = object({
    arn               = string
    listener_arn      = string
    security_group_id = string
    dns_name          = string
    zone_id           = string
    rule_priority     = optional(number)
  })
  default = null

  validation {
    condition     = var.load_balancer == null || var.network != null
    error_message = "load_balancer needs network: the tasks must be in the VPC of the load balancer."
  }
}

# Service -----------------------------------------------------------------------------------------

variable "cluster_arn" {
  description = "An existing ECS cluster. Null: one is made. Its settings (Container Insights, encryption of scratch disks, log of shells) stay with its owner."
  type        = string
  default     = null

  validation {
    condition     = var.cluster_arn == null || can(regex("^arn:aws[a-z-]*:ecs:[a-z0-9-]+:[0-9]{12}:cluster/.+$", var.cluster_arn))
    error_message = "cluster_arn must be the ARN of an ECS cluster."
  }
}

variable "create_repository" {
  description = "Make an ECR repository for the image."
  type        = bool
  default     = true
}

variable "registry_arns" {
  description = "Further ECR repositories that tasks may pull from. The one that image names is allowed by itself, in whichever account it is."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.registry_arns : can(regex("^arn:aws[a-z-]*:ecr:[a-z0-9-]+:[0-9]{12}:repository/.+$", arn))])
    error_message = "registry_arns must be ARNs of ECR repositories."
  }
}

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
    condition     = contains([256, 512, 1024, 2048, 4096, 8192, 16384], var.task_cpu)
    error_message = "task_cpu must be 256, 512, 1024, 2048, 4096, 8192 or 16384."
  }
}

variable "task_memory_mib" {
  description = "Memory of a task in MiB; must be one that Fargate offers for task_cpu."
  type        = number
  default     = 2048

  validation {
    condition = contains(lookup({
      256   = [512, 1024, 2048]
      512   = range(1024, 4097, 1024)
      1024  = range(2048, 8193, 1024)
      2048  = range(4096, 16385, 1024)
      4096  = range(8192, 30721, 1024)
      8192  = range(16384, 61441, 4096)
      16384 = range(32768, 122881, 8192)
    }, var.task_cpu, []), var.task_memory_mib)
    error_message = "Fargate offers for 256 CPU units 512, 1024 or 2048 MiB; for 512 1-4 GiB, for 1024 2-8, for 2048 4-16 and for 4096 8-30 in steps of 1024 MiB; for 8192 16-60 GiB in steps of 4096; for 16384 32-120 GiB in steps of 8192."
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

variable "drain_seconds" {
  description = "Seconds that requests of a task may go on when it is replaced. A transfer that takes longer is cut, and the device tries again."
  type        = number
  default     = 300

  validation {
    condition     = var.drain_seconds >= 60 && var.drain_seconds <= 3600
    error_message = "drain_seconds must be 60 to 3600."
  }
}

variable "wait_for_deployment" {
  description = "Let apply wait until the new tasks serve, and fail if the deployment was rolled back."
  type        = bool
  default     = true
}

variable "execute_command" {
  description = "Allow shells in running tasks (aws ecs execute-command). What is typed goes to the log group /NAME/shell, unless the cluster is given."
  type        = bool
  default     = false
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

variable "create_bucket" {
  description = "Make the bucket. False: bucket_name is one that exists, with settings of its own."
  type        = bool
  default     = true
}

variable "bucket_name" {
  description = "Name of the bucket. Null: NAME- and random characters."
  type        = string
  default     = null

  validation {
    condition     = var.create_bucket || var.bucket_name != null
    error_message = "Without create_bucket, bucket_name must say which bucket to use."
  }
}

variable "create_table" {
  description = "Make the table. False: table_name is one that exists, with settings of its own."
  type        = bool
  default     = true
}

variable "table_name" {
  description = "Name of the table, also of a restored one that has been imported: README.md, \"Restore\". Null: NAME-heads."
  type        = string
  default     = null

  validation {
    condition     = var.create_table || var.table_name != null
    error_message = "Without create_table, table_name must say which table to use."
  }
}

variable "history_days" {
  description = "Days that every version of a collection can be brought back (ANKISYNCD_HISTORY_DAYS)."
  type        = number
  default     = 30

  validation {
    condition     = var.history_days >= 1 && var.history_days <= 365 && floor(var.history_days) == var.history_days
    error_message = "history_days must be a whole number from 1 to 365."
  }
}

variable "deleted_objects_days" {
  description = "Days that the bucket keeps an object after the server or anybody else has deleted it."
  type        = number
  default     = 30

  validation {
    condition     = var.deleted_objects_days >= 1 && var.deleted_objects_days <= 365 && floor(var.deleted_objects_days) == var.deleted_objects_days
    error_message = "deleted_objects_days must be a whole number from 1 to 365."
  }
}

variable "create_kms_key" {
  description = "Make a KMS key for bucket, table, logs, secret, alarms, schedule and scratch disks."
  type        = bool
  default     = false
}

variable "kms_key_arn" {
  description = "A KMS key of yours for the same; its policy must have the statements of the output kms_key_policy. Null: keys owned by AWS."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a KMS key."
  }

  validation {
    condition     = var.kms_key_arn == null || !var.create_kms_key
    error_message = "Give kms_key_arn or create_kms_key, not both."
  }
}

variable "replica" {
  description = "A second region that gets a copy of bucket, table and client secret, with a KMS key there if this region has one. Null: no copies."
  type = object({
    region      = string
    kms_key_arn = optional(string)
  })
  default = null

  validation {
    condition     = var.replica == null || (var.create_bucket && var.create_table)
    error_message = "replica copies a bucket and a table that are made here."
  }

  validation {
    condition     = var.replica == null || (try(var.replica.kms_key_arn, null) != null) == (var.create_kms_key || var.kms_key_arn != null)
    error_message = "replica.kms_key_arn must be given if and only if this region has a KMS key."
  }
}

variable "deletion_protection" {
  description = "Protect bucket contents, table, user pool and load balancer from being destroyed. Set to false and apply before destroying."
  type        = bool
  default     = true
}

# Login -------------------------------------------------------------------------------------------

variable "user_pool" {
  description = "An existing user pool, and a client in it with its secret in Secrets Manager. Without a client, one is made. Null: a pool is made."
  type = object({
    id                = string
    client_id         = optional(string)
    client_secret_arn = optional(string)
  })
  default = null

  validation {
    condition     = var.user_pool == null || can(regex("^[a-z0-9-]+_[A-Za-z0-9]+$", var.user_pool.id))
    error_message = "user_pool.id must be the id of a pool, such as eu-central-1_AbCdEf123."
  }

  validation {
    condition     = (try(var.user_pool.client_id, null) == null) == (try(var.user_pool.client_secret_arn, null) == null)
    error_message = "user_pool.client_id and user_pool.client_secret_arn go together."
  }
}

variable "user_pool_region" {
  description = "Region of the user pool that is made. A pool cannot be copied: in the region of replica it survives the loss of this one. Null: this region."
  type        = string
  default     = null

  validation {
    condition     = var.user_pool_region == null || var.user_pool == null
    error_message = "user_pool_region is for a pool that is made here."
  }
}

variable "managed_login" {
  description = "Cognito's pages for sign-up, forgotten passwords and time-based codes. domain is a prefix (its own name below amazoncognito.com) or a host name with a certificate in us-east-1; callback_url is where people land afterwards, by default https://DOMAIN_NAME/."
  type = object({
    domain          = string
    certificate_arn = optional(string)
    callback_url    = optional(string)
  })
  default = null

  validation {
    condition     = var.managed_login == null || try(strcontains(var.managed_login.domain, ".") == (var.managed_login.certificate_arn != null), false)
    error_message = "managed_login.domain is a prefix without dots, or a host name with certificate_arn."
  }
}

variable "email" {
  description = "Sender of the pool's mails: an address, and the ARN of the verified SES identity that it belongs to. Null: Cognito's own sender, which is limited to 50 mails a day."
  type = object({
    from         = string
    identity_arn = string
  })
  default = null

  validation {
    condition     = var.email == null || can(regex("^arn:aws[a-z-]*:ses:[a-z0-9-]+:[0-9]{12}:identity/.+$", var.email.identity_arn))
    error_message = "email.identity_arn must be the ARN of an SES identity."
  }
}

variable "mfa" {
  description = "Time-based codes of the user pool: OFF, OPTIONAL or, with managed_login, ON. Anki sends two fields only, so people append the code to the password. Cognito's pages offer the set-up with ON alone."
  type        = string
  default     = "OFF"

  validation {
    condition     = contains(["OFF", "OPTIONAL", "ON"], var.mfa) && (var.mfa != "ON" || var.managed_login != null)
    error_message = "mfa must be OFF, OPTIONAL or ON; ON needs managed_login, since Anki cannot set up a code and people would be locked out."
  }
}

variable "self_sign_up" {
  description = "Let people make their own accounts, on the pages of managed_login."
  type        = bool
  default     = false

  validation {
    condition     = !var.self_sign_up || var.managed_login != null
    error_message = "self_sign_up needs managed_login: there is no other page to sign up on."
  }
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

variable "alarm_topic_arn" {
  description = "An existing SNS topic for alarms; cloudwatch, events and budgets must be allowed to publish to it. Null: one is made."
  type        = string
  default     = null

  validation {
    condition     = var.alarm_topic_arn == null || can(regex("^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:.+$", var.alarm_topic_arn))
    error_message = "alarm_topic_arn must be the ARN of an SNS topic."
  }
}

variable "monthly_budget_usd" {
  description = "Budget in US dollars; a message is sent at 80 % spent, and when the forecast is above it. Null: no budget."
  type        = number
  default     = null

  validation {
    condition     = var.monthly_budget_usd == null || try(var.monthly_budget_usd > 0, false)
    error_message = "monthly_budget_usd must be above 0."
  }
}

variable "access_logs_bucket" {
  description = "Existing bucket for the access logs of load balancer and bucket; its policy must let both services write (examples/complete). Null: none are kept."
  type        = string
  default     = null
}

variable "flow_logs" {
  description = "Keep flow logs of the VPC that is made."
  type        = bool
  default     = false
}

variable "waf" {
  description = "Put a web ACL in front of the load balancer that is made: login rate limit, known bad addresses and inputs."
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
