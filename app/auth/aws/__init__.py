"""Users and host keys in the cloud: Cognito, DynamoDB and S3."""
