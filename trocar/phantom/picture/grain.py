"""The grain of tissue of a body region: a texture over everything a procedure shows but the instruments.

Organs differ from procedure to procedure already; their grain differs in what a small network sees first, the local
pattern, so that features of one procedure are worth less on another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from trocar.phantom.picture.textures import Array, Rng, cells, spectral

DEPTH = 0.4
"""How far the grain darkens and lightens the tissue."""
PERIOD = 1.0
"""View heights that one tile of grain spans."""


def lobules(rng: Rng) -> Array:
    """Closed cells with dark borders."""
    return 2 * cells(rng, 900)[0] - 0.9


def fibres(rng: Rng) -> Array:
    """Parallel strands in a direction of the patient's own."""
    return _limited(spectral(rng, 24, 34, angle=float(rng.uniform(0, np.pi)), stretch=10))


def dimples(rng: Rng) -> Array:
    """Dark dots on an even ground."""
    return np.asarray(0.5 - 1.5 * (spectral(rng, 26, 36) > 1.0), dtype=np.float32)


def _limited(noise: Array) -> Array:
    return np.asarray(np.tanh(noise), dtype=np.float32)


GRAINS: Mapping[str, Callable[[Rng], Array]] = {
    "cholecystectomy": lobules,
    "sleeve_gastrectomy": fibres,
    "hysterectomy": dimples,
}
