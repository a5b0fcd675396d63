"""The order of work, and the hosts that run it."""
