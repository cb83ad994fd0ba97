"""The collection of the tests of syncs."""

from tests.app.sync.conftest import base, codec

__all__ = ["base", "codec"]
