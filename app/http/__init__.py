"""Bytes to requests, results to bytes, errors to status codes."""
