"""The user's own pages: rendered on the server, without scripts; any worker answers any click."""
