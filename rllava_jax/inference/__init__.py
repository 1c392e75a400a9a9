"""Answers from a trained model: decoding with a KV cache, and prediction from files."""
