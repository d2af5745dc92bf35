"""Losses: pure functions of network outputs, in float32, each with its source."""
