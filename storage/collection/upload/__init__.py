"""What an uploaded collection goes through before it becomes a version: checks, upgrade and rebuild."""
