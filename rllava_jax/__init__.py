"""Medical visual question answering that looks where a doctor points: PaliGemma with a region branch, in JAX."""

__version__ = "0.1.0"
