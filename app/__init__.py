"""Speaks HTTP and the Anki protocol; knows no bucket, table or SDK."""
