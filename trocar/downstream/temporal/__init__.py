"""Temporal heads: per-frame features of a whole case -> one prediction per frame that knows its neighbours in
time.
"""
