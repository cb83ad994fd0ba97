resource "aws_cognito_user_pool" "this" {
  name                     = var.name
  user_pool_tier           = "ESSENTIALS"
  deletion_protection      = var.deletion_protection ? "ACTIVE" : "INACTIVE"
  mfa_configuration        = var.mfa
  alias_attributes         = ["email", "preferred_username"]
  auto_verified_attributes = ["email"]
  tags                     = local.tags

  username_configuration {
    case_sensitive = false
  }

  admin_create_user_config {
    allow_admin_create_user_only = !var.self_sign_up
  }

  password_policy {
    minimum_length                   = 12
    require_lowercase                = false
    require_uppercase                = false
    require_numbers                  = false
    require_symbols                  = false
    temporary_password_validity_days = 7
  }

  account_recovery_setting {
    recovery_mechanism {
      name     = "verified_email"
      priority = 1
    }
  }

  dynamic "software_token_mfa_configuration" {
    for_each = var.mfa == "OFF" ? [] : [1]

    content {
      enabled = true
    }
  }
}

resource "aws_cognito_user_pool_client" "server" {
  name            = "${var.name}-server"
  user_pool_id    = aws_cognito_user_pool.this.id
  generate_secret = true

  # A refresh token stands behind each device's key: when it ends, the device has to log in again.
  # It must not be rotated, since several workers may present it.
  # The server signs in on behalf of people, with its own role; nobody can with the client id alone.
  explicit_auth_flows           = ["ALLOW_ADMIN_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"]
  prevent_user_existence_errors = "ENABLED"
  enable_token_revocation       = true
  access_token_validity         = 10
  id_token_validity             = 10
  refresh_token_validity        = var.device_days
  read_attributes               = ["email", "email_verified", "preferred_username"]
  write_attributes              = ["email", "preferred_username"]

  token_validity_units {
    access_token  = "minutes"
    id_token      = "minutes"
    refresh_token = "days"
  }
}

# The client's secret is in Terraform's state too: keep the state encrypted.
resource "aws_secretsmanager_secret" "client" {
  name_prefix             = "${var.name}-cognito-client-"
  description             = "Secret of the user pool client that the sync server uses"
  kms_key_id              = var.kms_key_arn
  recovery_window_in_days = var.deletion_protection ? 30 : 0
  tags                    = local.tags
}

resource "aws_secretsmanager_secret_version" "client" {
  secret_id     = aws_secretsmanager_secret.client.id
  secret_string = aws_cognito_user_pool_client.server.client_secret
}
