"""The region trust benchmark: what a model does with a marked region that is wrong (docs/TRUST.md)."""
