"""The sync server: HTTP, the Anki protocol, logins and maintenance, on top of `storage`."""
