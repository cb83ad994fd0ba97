"""The tables of a collection: what a sync reads from each, and how incoming rows are merged into it."""
