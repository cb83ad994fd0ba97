"""A versioned SQLite file over objects and heads."""
