output "endpoint" {
  description = "Address to enter in Anki: Preferences, Syncing, self-hosted sync server."
  value       = "https://${var.domain_name}/"
}

output "load_balancer_dns_name" {
  description = "Where domain_name must point when zone_id is not given."
  value       = aws_lb.this.dns_name
}

output "user_pool_id" {
  description = "Cognito user pool of the people who may log in."
  value       = aws_cognito_user_pool.this.id
}

output "bucket" {
  description = "Bucket of collections and media."
  value       = aws_s3_bucket.store.id
}

output "table" {
  description = "DynamoDB table of heads and host keys."
  value       = aws_dynamodb_table.heads.name
}

output "repository_url" {
  description = "Where to push the server's image."
  value       = aws_ecr_repository.this.repository_url
}

output "task_role_arn" {
  description = "Role of the server."
  value       = aws_iam_role.task.arn
}

output "log_group" {
  description = "Log group of the server."
  value       = aws_cloudwatch_log_group.server.name
}

output "admin_command" {
  description = "Command that runs ankisyncctl as a task, with the server's role and network; its answer goes to the log group."
  value       = <<-EOT
    aws ecs run-task --cluster ${aws_ecs_cluster.this.name} --task-definition ${aws_ecs_task_definition.maintain.family} --launch-type FARGATE --network-configuration '${jsonencode({ awsvpcConfiguration = { subnets = local.task_subnet_ids, securityGroups = [aws_security_group.tasks.id], assignPublicIp = local.tasks_are_public ? "ENABLED" : "DISABLED" } })}' --overrides '${jsonencode({ containerOverrides = [{ name = "maintain", command = ["ankisyncctl", "status"] }] })}'
  EOT
}

output "first_user" {
  description = "Commands that make the first user; Anki cannot answer a forced change of password, so it is set for good."
  value       = <<-EOT
    aws cognito-idp admin-create-user --user-pool-id ${aws_cognito_user_pool.this.id} --username NAME --user-attributes Name=email,Value=ADDRESS Name=email_verified,Value=true --message-action SUPPRESS
    aws cognito-idp admin-set-user-password --user-pool-id ${aws_cognito_user_pool.this.id} --username NAME --password 'PASSWORD' --permanent
  EOT
}
