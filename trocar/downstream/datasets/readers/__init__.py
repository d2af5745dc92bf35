"""What the adapters share: readers of masks, tables, videos and shards as data sets have them."""
