"""How a marked region reaches the model, the half of it that prepares data: one file an encoder."""
