"""Training of a whole network on labelled frames: goals, loss, batches, optimiser and loop."""
