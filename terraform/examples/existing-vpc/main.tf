# In a network and with a certificate that are there already; the record is made by hand.

module "ankisyncd" {
  source          = "../.."
  domain_name     = "sync.example.com"
  certificate_arn = "arn:aws:acm:eu-central-1:123456789012:certificate/6f1c2d3e-0000-4000-8000-000000000000"
  image           = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/ankisyncd:0.1.0"

  network = {
    vpc_id             = "vpc-0123456789abcdef0"
    public_subnet_ids  = ["subnet-0000000000000000a", "subnet-0000000000000000b"]
    private_subnet_ids = ["subnet-0000000000000000c", "subnet-0000000000000000d"]
  }
}

output "point_the_name_at" {
  description = "Target of the record for sync.example.com."
  value       = module.ankisyncd.load_balancer_dns_name
}
