"""Scores with the convention in their name. Each is a pure function of an `Outcome` and optional case
weights.
"""
