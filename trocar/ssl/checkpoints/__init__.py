"""A run's state on disk: copied between two steps, written whole or not at all."""
