"""Step -> crops: readers, worker processes, and the torch and DALI backends."""
