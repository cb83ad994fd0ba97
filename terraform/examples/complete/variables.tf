variable "name" {
  description = "Prefix of all names."
  type        = string
  default     = "school-sync"
}

variable "domain_name" {
  description = "Host name that people enter in Anki."
  type        = string
  default     = "sync.school.example"
}

variable "zone_id" {
  description = "Hosted zone of the name."
  type        = string
  default     = "Z0123456789ABCDEFGHIJ"
}

variable "image" {
  description = "Image of the server."
  type        = string
  default     = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/ankisyncd:0.1.0"
}
