"""Random streams keyed by name: a case draws the same numbers whatever else is generated, and in whatever order."""

from __future__ import annotations

import hashlib

import numpy as np

from trocar.phantom.spec import GENERATOR_VERSION


def stream(seed: int, *name: object) -> np.random.Generator:
    """A generator keyed by (generator version, seed, name).

    Streams of different names are independent, so a new draw in one part of a case never shifts another part.
    """
    text = "/".join(str(part) for part in (GENERATOR_VERSION, seed, *name))
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype="<u8")))
