"""Shards in object stores and on web servers, read through fsspec."""
