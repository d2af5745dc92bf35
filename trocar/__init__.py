"""Self-supervised pretraining of surgical vision backbones, and the measurement of what it was worth."""

__version__ = "0.1.0"
