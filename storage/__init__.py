"""Versioned SQLite databases and media on an object store and a head store; independent of HTTP and `app`."""
