"""Scaling laws fitted to finished runs, or refused with the reason."""
