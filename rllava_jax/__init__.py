"""Medical visual question answering that looks where a doctor points: PaliGemma with a region branch, in JAX."""

import sys

from rllava_jax.runtime import process_memory

__version__ = "0.1.0"

process_memory.start(sys.orig_argv, sys.argv)
