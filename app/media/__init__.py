"""The media protocol: one file per step."""
