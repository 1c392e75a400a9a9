"""Random generators seeded by names, so that a draw depends on what it is for and not on the order of the work."""

import hashlib

import numpy as np


def rng_for(*names: str | int) -> np.random.Generator:
    """A generator determined by `names` alone, e.g. `rng_for(seed, "identify", image_id, 3)`.

    Hashed with SHA-256: Python's own `hash` of text differs from process to process.
    """
    digest = hashlib.sha256("\x1f".join(str(name) for name in names).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
