"""Medical visual question answering that looks where a doctor points: PaliGemma with a region branch, in JAX."""

import sys

from rllava_jax.host_memory import restart_keeping_freed_memory

__version__ = "0.1.0"

restart_keeping_freed_memory(sys.orig_argv, sys.argv)  # a program's first step; where this is a library, nothing
