# The service in one region, with copies of everything in a second one. The user pool is in the second region from
# the beginning: a pool cannot be copied, and there it survives the loss of the first.

provider "aws" {
  region = "eu-central-1"
}

module "ankisyncd" {
  source           = "../.."
  domain_name      = "sync.example.com"
  zone_id          = "Z0123456789ABCDEFGHIJ"
  image            = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/ankisyncd:0.1.0"
  user_pool_region = "eu-west-1"
  replica          = { region = "eu-west-1" }
  alarm_emails     = ["operations@example.com"]
}

output "second_region" {
  description = "To be noted down: the inputs of examples/standby."
  value       = module.ankisyncd.second_region
}
