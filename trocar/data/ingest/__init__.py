"""Videos and frame folders -> WebDataset shards and a catalog."""
