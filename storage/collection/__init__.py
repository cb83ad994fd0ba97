"""SQL on Anki's tables, inside a checkout."""
