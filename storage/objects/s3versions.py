"""Old versions in a versioned bucket, which listings of objects do not show: for data that has to be gone.

Needs `s3:ListBucketVersions` and `s3:DeleteObjectVersion`, which the server does not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from storage.aws import mapped
from storage.errors import Unavailable

_DELETED_AT_ONCE: Final = 1000


class OldVersion(NamedTuple):
    """One version of an object, or the mark that S3 leaves where an object was deleted."""

    key: str
    """With the bucket's prefix."""
    version_id: str
    size_bytes: int


class S3Versions:
    """The versions in a bucket. `prefix` is empty or ends with `/`."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self._client, self._bucket, self._prefix = client, bucket, prefix

    def are_kept(self) -> bool:
        """Whether the bucket keeps versions, or has done so."""
        with mapped(f"versioning of {self._bucket}"):
            answer = self._client.get_bucket_versioning(Bucket=self._bucket)
        return "Status" in answer

    def kept_days(self) -> int | None:
        """Days until the bucket deletes what is not current any more; None if it never does."""
        with mapped(f"lifecycle of {self._bucket}"):
            rules = self._client.get_bucket_lifecycle_configuration(Bucket=self._bucket)["Rules"]
        days = [
            rule["NoncurrentVersionExpiration"]["NoncurrentDays"]
            for rule in rules
            if rule["Status"] == "Enabled" and "NoncurrentDays" in rule.get("NoncurrentVersionExpiration", {})
        ]
        return min(days, default=None)

    def list(self, prefix: str, *, is_key: bool = False) -> Iterator[OldVersion]:
        """All versions, current ones too, of keys that begin with `prefix`, or of that key alone; lazy."""
        request = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        while True:
            with mapped(f"versions under {prefix}"):
                answer = self._client.list_object_versions(**request)
            for found in (*answer.get("Versions", ()), *answer.get("DeleteMarkers", ())):
                if not is_key or found["Key"] == request["Prefix"]:
                    yield OldVersion(found["Key"], found["VersionId"], found.get("Size", 0))
            if not answer.get("IsTruncated"):
                return
            request["KeyMarker"] = answer["NextKeyMarker"]
            request["VersionIdMarker"] = answer["NextVersionIdMarker"]

    def delete(self, versions: Iterable[OldVersion]) -> int:
        """Delete versions for good; how many. Repeated, it does no harm."""
        left, count = iter(versions), 0
        while batch := list(islice(left, _DELETED_AT_ONCE)):
            objects = [{"Key": version.key, "VersionId": version.version_id} for version in batch]
            with mapped(f"versions of {batch[0].key} and others"):
                answer = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True}
                )
            for error in answer.get("Errors", ()):
                raise Unavailable(f"{error.get('Key')}: {error.get('Code')} {error.get('Message')}")
            count += len(batch)
        return count
