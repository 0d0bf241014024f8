"""The warm-pool manager's decisions, pure: no I/O, no clock, no randomness."""
