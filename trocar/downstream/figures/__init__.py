"""Pictures of predictions: ribbons, confusion, precision and recall, reliability.

Readable with any colour vision: see `style`.
"""

from trocar.downstream.figures.draw import draw

__all__ = ["draw"]
