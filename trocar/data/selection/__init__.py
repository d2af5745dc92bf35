"""Which catalog rows a run draws from, and in which proportions."""
