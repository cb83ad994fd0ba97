"""Keeps versioned SQLite files and blobs; knows no HTTP and no Flask."""
