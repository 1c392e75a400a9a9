"""SigLIP, Gemma and the region branch, as `flax.nnx` modules whose parameter names are the checkpoint's own."""
