"""The collection protocol: its messages, the life of a sync, and full uploads and downloads."""
