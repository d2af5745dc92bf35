"""The catalog of a shards folder: written by ingest, read by everything else."""
