# A pool cannot be copied to another region; with user_pool_region it can be in a region of its own.
resource "aws_cognito_user_pool" "this" {
  count                    = var.user_pool == null ? 1 : 0
  region                   = local.user_pool_region
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

  # Cognito's own sender is limited to 50 mails a day.
  email_configuration {
    email_sending_account = var.email == null ? "COGNITO_DEFAULT" : "DEVELOPER"
    from_email_address    = try(var.email.from, null)
    source_arn            = try(var.email.identity_arn, null)
  }

  dynamic "software_token_mfa_configuration" {
    for_each = var.mfa == "OFF" ? [] : [1]

    content {
      enabled = true
    }
  }
}

resource "aws_cognito_user_pool_client" "server" {
  count           = local.own_client ? 1 : 0
  region          = local.user_pool_region
  name            = "${var.name}-server"
  user_pool_id    = local.user_pool_id
  generate_secret = true

  # Each device's host key depends on a refresh token: when that expires, the device has to log in again.
  # It must not be rotated, since several workers may use it.
  # Logins need the server's own role; the client id alone is not enough.
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
  count                   = local.own_client ? 1 : 0
  region                  = var.region
  name_prefix             = "${var.name}-cognito-client-"
  description             = "Secret of the user pool client that the sync server uses"
  kms_key_id              = local.kms_key_arn
  recovery_window_in_days = var.deletion_protection ? 30 : 0
  tags                    = local.tags

  dynamic "replica" {
    for_each = var.replica == null ? [] : [var.replica]

    content {
      region     = replica.value.region
      kms_key_id = replica.value.kms_key_arn
    }
  }
}

resource "aws_secretsmanager_secret_version" "client" {
  count         = local.own_client ? 1 : 0
  region        = var.region
  secret_id     = aws_secretsmanager_secret.client[0].id
  secret_string = aws_cognito_user_pool_client.server[0].client_secret
}

# Cognito's own pages: sign-up, forgotten password and, with mfa = "ON", the set-up of time-based codes. They
# belong to a client without a secret, which has no access to the server's client.
resource "aws_cognito_user_pool_domain" "this" {
  count                 = var.managed_login == null ? 0 : 1
  region                = local.user_pool_region
  user_pool_id          = local.user_pool_id
  domain                = var.managed_login.domain
  certificate_arn       = var.managed_login.certificate_arn
  managed_login_version = 2
}

resource "aws_cognito_user_pool_client" "pages" {
  count                                = var.managed_login == null ? 0 : 1
  region                               = local.user_pool_region
  name                                 = "${var.name}-pages"
  user_pool_id                         = local.user_pool_id
  generate_secret                      = false
  explicit_auth_flows                  = ["ALLOW_REFRESH_TOKEN_AUTH", "ALLOW_USER_SRP_AUTH"]
  prevent_user_existence_errors        = "ENABLED"
  enable_token_revocation              = true
  supported_identity_providers         = ["COGNITO"]
  allowed_oauth_flows_user_pool_client = true
  allowed_oauth_flows                  = ["code"]
  allowed_oauth_scopes                 = ["aws.cognito.signin.user.admin", "email", "openid"]
  callback_urls                        = [local.callback_url]
  read_attributes                      = ["email", "email_verified", "preferred_username"]
  write_attributes                     = ["email", "preferred_username"]
}

resource "aws_cognito_managed_login_branding" "this" {
  count                       = var.managed_login == null ? 0 : 1
  region                      = local.user_pool_region
  user_pool_id                = local.user_pool_id
  client_id                   = aws_cognito_user_pool_client.pages[0].id
  use_cognito_provided_values = true
}

locals {
  callback_url = try(coalesce(var.managed_login.callback_url), "https://${var.domain_name}/")

  # A name without a dot is a prefix of Cognito's own domain.
  pages_host = var.managed_login == null ? null : (
    strcontains(var.managed_login.domain, ".") ? var.managed_login.domain : "${var.managed_login.domain}.auth.${local.user_pool_region}.amazoncognito.com"
  )
  pages_query = var.managed_login == null ? null : join("&", [
    "client_id=${aws_cognito_user_pool_client.pages[0].id}",
    "response_type=code",
    "scope=${urlencode("aws.cognito.signin.user.admin email openid")}",
    "redirect_uri=${urlencode(local.callback_url)}",
  ])
}
