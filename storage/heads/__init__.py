"""The head store: one record per database, with its current version and its running session."""
