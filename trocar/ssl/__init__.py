"""Self-supervised methods and the trainer that drives them."""
