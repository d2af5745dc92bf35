"""Synthetic labelled laparoscopy videos: small, deterministic, versioned. `docs/phantom.md` says what they are for."""

from trocar.phantom.corpus import generate, is_complete
from trocar.phantom.spec import CLASSES, GENERATOR_VERSION, HOSPITALS, PHASES, PROCEDURES, TOOLS, PhantomSpec

__all__ = [
    "CLASSES",
    "GENERATOR_VERSION",
    "HOSPITALS",
    "PHASES",
    "PROCEDURES",
    "TOOLS",
    "PhantomSpec",
    "generate",
    "is_complete",
]
