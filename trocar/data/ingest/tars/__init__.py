"""Shards that others wrote: a catalog of their pictures where they lie."""
