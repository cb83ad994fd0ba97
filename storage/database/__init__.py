"""Versioned SQLite databases on an object store and a head store."""
