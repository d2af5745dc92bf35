"""Videos -> shards -> catalog -> plan -> views -> batches. This room knows no model."""
