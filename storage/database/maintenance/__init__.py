"""Work on stored databases beside the syncs: compaction, sweep, and the search for losses."""
