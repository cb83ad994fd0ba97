"""An engine for the client."""

from tests.support.engines import moto_bucket, moto_endpoint, moto_table

__all__ = ["moto_bucket", "moto_endpoint", "moto_table"]
