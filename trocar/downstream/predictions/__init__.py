"""Predictions files: written, read back, and turned into outcomes and metrics."""
