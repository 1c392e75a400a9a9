"""Checkpoints: written, verified, and traced back to what they came from."""
