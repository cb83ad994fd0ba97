# On a platform that has everything already: only tasks, roles, alarms and the schedule are made.

module "ankisyncd" {
  source                   = "../.."
  domain_name              = "sync.example.com"
  image                    = "210987654321.dkr.ecr.eu-central-1.amazonaws.com/platform/ankisyncd:0.1.0"
  create_repository        = false
  cluster_arn              = "arn:aws:ecs:eu-central-1:123456789012:cluster/platform"
  create_bucket            = false
  bucket_name              = "platform-anki"
  create_table             = false
  table_name               = "platform-anki-heads"
  kms_key_arn              = "arn:aws:kms:eu-central-1:123456789012:key/6f1c2d3e-0000-4000-8000-000000000000"
  alarm_topic_arn          = "arn:aws:sns:eu-central-1:123456789012:operations"
  permissions_boundary_arn = "arn:aws:iam::123456789012:policy/platform-boundary"

  network = {
    vpc_id             = "vpc-0123456789abcdef0"
    public_subnet_ids  = ["subnet-0000000000000000a", "subnet-0000000000000000b"]
    private_subnet_ids = ["subnet-0000000000000000c", "subnet-0000000000000000d"]
  }

  load_balancer = {
    arn               = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/platform/0123456789abcdef"
    listener_arn      = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/app/platform/0123456789abcdef/fedcba9876543210"
    security_group_id = "sg-0123456789abcdef0"
    dns_name          = "platform-1234567890.eu-central-1.elb.amazonaws.com"
    zone_id           = "Z215JYRZR1TBD5"
    rule_priority     = 200
  }

  user_pool = {
    id                = "eu-central-1_AbCdEf123"
    client_id         = "1h57kf5cpq17m0eml12EXAMPLE"
    client_secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:anki-client-AbCdEf"
  }
}

output "endpoint" {
  description = "Address to enter in Anki."
  value       = module.ankisyncd.endpoint
}
