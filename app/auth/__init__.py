"""Authentication: users, passwords, host keys and the limits of login attempts."""
