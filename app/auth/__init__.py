"""Who a request belongs to: users, passwords and host keys."""
