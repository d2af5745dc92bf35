"""Step -> catalog rows of the global batch, with neighbour frames."""
