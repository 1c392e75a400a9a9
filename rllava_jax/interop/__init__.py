"""Other libraries' checkpoints, in and out."""
