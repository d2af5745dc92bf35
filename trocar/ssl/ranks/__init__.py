"""Several processes as one training: where they run, how they meet, what they exchange."""
