"""Ways to score predictions, by name: a file each, listed in `registry.py`."""
