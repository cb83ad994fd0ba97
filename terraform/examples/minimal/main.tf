# A service from three values: a region, a host name, and the zone that the name is in.

variable "region" {
  description = "Region of the service, such as eu-central-1."
  type        = string
}

variable "domain_name" {
  description = "Host name that people enter in Anki, such as sync.example.com."
  type        = string
}

variable "zone_id" {
  description = "Hosted zone of the name, such as Z0123456789ABCDEFGHIJ."
  type        = string
}

variable "release" {
  description = "Tag of the image in the registry that is made."
  type        = string
  default     = "0.1.0"
}

variable "deletion_protection" {
  description = "Set to false before the service is destroyed."
  type        = bool
  default     = true
}

provider "aws" {
  region = var.region
}

module "ankisyncd" {
  source              = "../.." # elsewhere: "git::https://HOST/PATH/ankisyncd.git//terraform?ref=v0.1.0"
  domain_name         = var.domain_name
  zone_id             = var.zone_id
  image               = "${module.ankisyncd.repository_url}:${var.release}"
  deletion_protection = var.deletion_protection
}

output "endpoint" {
  description = "Address to enter in Anki."
  value       = module.ankisyncd.endpoint
}

output "region" {
  description = "Region of the service."
  value       = var.region
}

output "repository_url" {
  description = "Where to push the image."
  value       = module.ankisyncd.repository_url
}

output "admin_environment" {
  description = "Settings for ankisyncctl on your own machine."
  value       = module.ankisyncd.admin_environment
}

output "admin_command" {
  description = "Command that runs ankisyncctl as a task."
  value       = module.ankisyncd.admin_command
}

output "first_user" {
  description = "How to make the first user."
  value       = module.ankisyncd.first_user
}
