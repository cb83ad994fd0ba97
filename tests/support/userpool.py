"""A Cognito user pool in an engine on this machine."""

from __future__ import annotations

from tests.support import aws
from tests.support.servers import User

PASSWORD = "Correct-Horse-1"


class UserPool:
    """A pool with an app client that has a secret."""

    def __init__(self, engine: str) -> None:
        self.client = aws.client("cognito-idp", engine)
        self.id = self.client.create_user_pool(PoolName="anki")["UserPool"]["Id"]
        made = self.client.create_user_pool_client(
            UserPoolId=self.id, ClientName="server", GenerateSecret=True
        )
        app = made["UserPoolClient"]
        self.settings = {
            "COGNITO_USER_POOL_ID": self.id,
            "COGNITO_CLIENT_ID": app["ClientId"],
            "COGNITO_CLIENT_SECRET": app["ClientSecret"],
        }

    def add(self, name: str) -> User:
        self.client.admin_create_user(UserPoolId=self.id, Username=name)
        self.client.admin_set_user_password(
            UserPoolId=self.id, Username=name, Password=PASSWORD, Permanent=True
        )
        return User(name, PASSWORD)

    def disable(self, user: User) -> None:
        self.client.admin_disable_user(UserPoolId=self.id, Username=user.name)

    def enable(self, user: User) -> None:
        self.client.admin_enable_user(UserPoolId=self.id, Username=user.name)
