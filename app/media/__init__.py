"""The media protocol: one module per method."""
