output "endpoint" {
  description = "Address to enter in Anki: Preferences, Syncing, self-hosted sync server."
  value       = "https://${var.domain_name}/"
}

output "load_balancer_dns_name" {
  description = "Where domain_name must point when zone_id is not given."
  value       = local.load_balancer.dns_name
}

output "load_balancer_zone_id" {
  description = "Hosted zone of the load balancer, for an alias record of your own."
  value       = local.load_balancer.zone_id
}

output "load_balancer_arn" {
  description = "Load balancer."
  value       = local.load_balancer.arn
}

output "listener_arn" {
  description = "HTTPS listener, for further rules."
  value       = local.load_balancer.listener_arn
}

output "target_group_arn" {
  description = "Target group of the tasks."
  value       = aws_lb_target_group.this.arn
}

output "web_acl_arn" {
  description = "Web ACL, or null."
  value       = one(aws_wafv2_web_acl.this[*].arn)
}

output "certificate_arn" {
  description = "Certificate that was given or issued, or null."
  value       = local.certificate_arn
}

output "vpc_id" {
  description = "VPC of the service."
  value       = local.vpc_id
}

output "public_subnet_ids" {
  description = "Subnets of the load balancer."
  value       = local.public_subnet_ids
}

output "private_subnet_ids" {
  description = "Private subnets."
  value       = local.private_subnet_ids
}

output "load_balancer_security_group_id" {
  description = "Security group of the load balancer."
  value       = local.load_balancer.security_group_id
}

output "tasks_security_group_id" {
  description = "Security group of the tasks."
  value       = aws_security_group.tasks.id
}

output "cluster_arn" {
  description = "ECS cluster."
  value       = local.cluster_arn
}

output "service_name" {
  description = "ECS service."
  value       = aws_ecs_service.this.name
}

output "task_definition_arn" {
  description = "Task definition that the service runs."
  value       = aws_ecs_service.this.task_definition
}

output "user_pool_id" {
  description = "Cognito user pool of the people who may log in."
  value       = local.user_pool_id
}

output "user_pool_arn" {
  description = "ARN of the user pool."
  value       = local.user_pool_arn
}

output "client_id" {
  description = "Client of the user pool that the server uses."
  value       = local.client_id
}

output "client_secret_arn" {
  description = "Secret in Secrets Manager with that client's secret."
  value       = local.client_secret_arn
}

output "login_pages" {
  description = "Address of Cognito's pages to sign up and sign in, or null."
  value       = var.managed_login == null ? null : "https://${local.pages_host}/login?${local.pages_query}"
}

output "password_page" {
  description = "Address of Cognito's page for a forgotten password, or null."
  value       = var.managed_login == null ? null : "https://${local.pages_host}/forgotPassword?${local.pages_query}"
}

output "bucket" {
  description = "Bucket of collections and media."
  value       = local.bucket
}

output "bucket_arn" {
  description = "ARN of the bucket."
  value       = local.bucket_arn
}

output "table" {
  description = "DynamoDB table of heads and host keys."
  value       = local.table
}

output "table_arn" {
  description = "ARN of the table."
  value       = local.table_arn
}

output "second_region" {
  description = "Inputs of this module for the second region, to be noted down before the first one is gone, or null."
  value = var.replica == null ? null : {
    region        = var.replica.region
    create_bucket = false
    bucket_name   = aws_s3_bucket.replica[0].id
    create_table  = false
    table_name    = local.table
    user_pool = {
      id                = local.user_pool_id
      client_id         = local.client_id
      client_secret_arn = replace(local.client_secret_arn, ":secretsmanager:${local.region}:", ":secretsmanager:${var.replica.region}:")
    }
  }
}

output "repository_url" {
  description = "Where to push the server's image, or null."
  value       = one(aws_ecr_repository.this[*].repository_url)
}

output "task_role_arn" {
  description = "Role of the server's tasks."
  value       = aws_iam_role.task.arn
}

output "maintain_role_arn" {
  description = "Role of maintenance and of administrators' commands."
  value       = aws_iam_role.maintain.arn
}

output "execution_role_arn" {
  description = "Role with which ECS starts the tasks."
  value       = aws_iam_role.execution.arn
}

output "log_group" {
  description = "Log group of the server."
  value       = aws_cloudwatch_log_group.server.name
}

output "alarm_topic_arn" {
  description = "SNS topic of the alarms, for further subscribers."
  value       = local.topic_arn
}

output "alarm_names" {
  description = "All alarms by their short name."
  value       = { for name, alarm in merge(aws_cloudwatch_metric_alarm.this, aws_cloudwatch_metric_alarm.formula, { deployment = aws_cloudwatch_metric_alarm.deployment }) : name => alarm.alarm_name }
}

output "kms_key_arn" {
  description = "KMS key that was given or made, or null."
  value       = local.kms_key_arn
}

output "kms_key_policy" {
  description = "Policy that a KMS key of yours must have."
  value       = data.aws_iam_policy_document.key.json
}

output "admin_environment" {
  description = "Settings for ankisyncctl on your own machine, as lines for a shell; terraform/ctl reads them."
  value = join("\n", concat(
    [for name in sort(keys(local.environment)) : "export ${name}='${replace(local.environment[name], "'", "'\\''")}'" if !contains(local.task_only, name)],
    ["CLIENT_SECRET_ARN='${local.client_secret_arn}'"],
  ))
}

output "admin_command" {
  description = "Command that runs ankisyncctl as a task, with the server's role and network; its answer goes to the log group."
  value       = <<-EOT
    aws ecs run-task --cluster ${local.cluster_name} --task-definition ${aws_ecs_task_definition.maintain.family} --launch-type FARGATE --network-configuration '${jsonencode({ awsvpcConfiguration = { subnets = local.task_subnet_ids, securityGroups = [aws_security_group.tasks.id], assignPublicIp = local.tasks_are_public ? "ENABLED" : "DISABLED" } })}' --overrides '${jsonencode({ containerOverrides = [{ name = "maintain", command = ["ankisyncctl", "status"] }] })}'
  EOT
}

output "shell_command" {
  description = "Command that opens a shell in a running task, with execute_command; TASK is one of aws ecs list-tasks."
  value       = "aws ecs execute-command --cluster ${local.cluster_name} --task TASK --container server --interactive --command /bin/sh"
}

output "first_user" {
  description = "Commands that make the first user; Anki cannot answer a forced change of password, so it is set for good."
  value       = <<-EOT
    aws cognito-idp admin-create-user --region ${local.user_pool_region} --user-pool-id ${local.user_pool_id} --username NAME --user-attributes Name=email,Value=ADDRESS Name=email_verified,Value=true --message-action SUPPRESS
    aws cognito-idp admin-set-user-password --region ${local.user_pool_region} --user-pool-id ${local.user_pool_id} --username NAME --password 'PASSWORD' --permanent
  EOT
}
