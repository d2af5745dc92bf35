"""Videos: containers, packets, display times, and pictures decoded from them."""
