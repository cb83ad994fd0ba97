terraform {
  required_version = ">= 1.9.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0, < 7.0"
    }
  }

  # The state holds the secret of the user pool's client: keep it encrypted, and where a colleague finds it.
  # backend "s3" {
  #   bucket       = "YOUR-STATE-BUCKET"
  #   key          = "ankisyncd.tfstate"
  #   region       = "eu-central-1"
  #   encrypt      = true
  #   use_lockfile = true
  # }
}
