"""Baselines that need no network: what a backbone must beat. One file each, which registers it with `BASELINES`."""
