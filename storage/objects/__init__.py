"""The object store: immutable objects by key."""
