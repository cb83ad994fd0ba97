"""What the composition root makes of the settings for AWS."""

from __future__ import annotations

import hashlib

import pytest

from app.cloud import Cloud
from app.config import Settings
from app.main import build_stores, now_ms
from storage.media.blobs import NewBlob
from storage.types import run_inline
from tests.support.far_s3 import far_s3

FILES = 25
"""As many as one upload of a client brings."""


@pytest.fixture
def settings(monkeypatch, tmp_path):
    def make(endpoint):
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
        }.items():
            monkeypatch.setenv(name, value)
        return Settings.from_env(
            {
                "ANKISYNCD_BACKEND": "aws",
                "ANKISYNCD_AUTH": "local",
                "ANKISYNCD_S3_BUCKET": "bucket",
                "ANKISYNCD_DYNAMODB_TABLE": "table",
                "AWS_REGION": "eu-central-1",
                "SYNC_BASE": str(tmp_path),
            }
        )

    return make


def test_contents_of_media_are_looked_up_and_put_side_by_side(settings):
    contents = [b"content %d" % number for number in range(FILES)]
    new = [NewBlob(hashlib.sha256(content).digest(), content) for content in contents]
    with far_s3(latency_s=0.1) as (endpoint, flights):
        chosen = settings(endpoint)
        stores = build_stores(chosen, Cloud(chosen), offload=run_inline, clock_ms=now_ms)
        assert stores.blobs.put_new(new) == FILES
        assert flights.all == {"HEAD": FILES, "PUT": FILES}
        assert flights.most["HEAD"] > FILES / 2
        assert flights.most["PUT"] > FILES / 2
        stores.close()
