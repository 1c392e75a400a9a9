"""How a marked region becomes tokens, the half of a region encoder that is part of the model: one file an encoder."""
