"""What the rest stands on: errors, paths, files that appear whole, JSON and CSV, registries, seeded generators."""
