# A service from three values: a host name, the zone it lies in, and the image.

variable "domain_name" {
  description = "Host name that people enter in Anki."
  type        = string
}

variable "zone_id" {
  description = "Hosted zone of the name."
  type        = string
}

variable "image" {
  description = "Image of the server."
  type        = string
}

module "ankisyncd" {
  source      = "../.."
  domain_name = var.domain_name
  zone_id     = var.zone_id
  image       = var.image
}

output "endpoint" {
  description = "Address to enter in Anki."
  value       = module.ankisyncd.endpoint
}

output "admin_command" {
  description = "Command that runs ankisyncctl as a task."
  value       = module.ankisyncd.admin_command
}

output "first_user" {
  description = "How to make the first user."
  value       = module.ankisyncd.first_user
}
