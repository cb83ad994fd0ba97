"""The files of a database on this host: bases, checkouts and their write-ahead logs."""
