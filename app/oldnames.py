"""Settings of earlier sync servers, and what has replaced them. Used in error messages of `app.config`."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

OLD_NAMES: Final = MappingProxyType(
    {
        "ANKISYNCD_AUTH_DB_PATH": "users are in ANKISYNCD_DATA_ROOT, made by ankisyncctl user add",
        "ANKISYNCD_AWS_REGION": "it is now AWS_REGION",
        "ANKISYNCD_BASE_MEDIA_URL": "it is not needed: any path before /msync/ is taken",
        "ANKISYNCD_BASE_URL": "it is not needed: any path before /sync/ is taken",
        "ANKISYNCD_COGNITO_CLIENT_ID": "it is now COGNITO_CLIENT_ID",
        "ANKISYNCD_COGNITO_CLIENT_SECRET": "it is now COGNITO_CLIENT_SECRET",
        "ANKISYNCD_COGNITO_REGION": "it is now COGNITO_REGION",
        "ANKISYNCD_COGNITO_USER_POOL_ID": "it is now COGNITO_USER_POOL_ID",
        "ANKISYNCD_COLLECTION_WRAPPER": "ANKISYNCD_BACKEND says where collections are kept",
        "ANKISYNCD_FULL_SYNC_MANAGER": "ANKISYNCD_BACKEND says where collections are kept",
        "ANKISYNCD_S3_ENDPOINT": "it is now AWS_ENDPOINT_URL_S3",
        "ANKISYNCD_S3_REGION": "it is now AWS_REGION",
        "ANKISYNCD_SESSION_DB_PATH": "sessions are in ANKISYNCD_DATA_ROOT, or in the table",
        "ANKISYNCD_SESSION_MANAGER": "ANKISYNCD_BACKEND says where sessions are kept",
        "ANKISYNCD_USER_MANAGER": "ANKISYNCD_AUTH says who checks passwords",
    }
)
"""Old name -> a text about its replacement."""

OLD_VALUES: Final = MappingProxyType({"ADMIN_NO_SRP_AUTH": "ADMIN_USER_PASSWORD_AUTH"})
"""Old value -> new value, as renamed by AWS."""
