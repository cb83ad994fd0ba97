"""Immutable blobs by key."""
