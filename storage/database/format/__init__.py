"""The stored bytes of a database: keys of objects, pages in snapshots and deltas, small envelopes."""
