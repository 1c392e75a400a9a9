"""Attention in XLA, and the fused kernels."""
