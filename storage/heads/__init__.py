"""One mutable record per database: head, lease and journal."""
