"""Asking a model, scoring its answers or anyone's, and reporting what came of it."""
