"""How a marked region becomes tokens."""
