"""Prepared data sets: how they lie on disk (`layout`), are written (`python -m data_pipelines.prepare`) and read."""
