"""One pretraining run: its configuration, assembly, hooks and record."""
