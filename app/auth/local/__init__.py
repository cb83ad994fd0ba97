"""Users and host keys of one machine: the users' file, and users named in the environment."""
