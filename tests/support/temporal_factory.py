"""Cases whose single frames are ambiguous, so that only a head that looks at other frames can name the phase."""

from __future__ import annotations

import numpy as np

from trocar.downstream.temporal.head import Sequence


def before_and_after(cases: int, seed: int = 0, noise: float = 0.3) -> list[Sequence]:
    """Phases 0, 1, 2 in that order, of 8 to 24 frames each; phases 0 and 2 look alike, phase 1 does not.

    float32 [T, 4]: the first dimension is +1 or -1, all have noise.
    """
    generator = np.random.default_rng(seed)
    found = []
    for number in range(cases):
        targets = np.repeat([0, 1, 2], generator.integers(8, 25, size=3))
        features = generator.normal(0, noise, (len(targets), 4)).astype(np.float32)
        features[:, 0] += np.where(targets == 1, -1, 1)
        time_s = np.arange(len(targets), dtype=np.float64)
        found.append(Sequence(f"case{number}", features, targets.astype(np.int64), time_s))
    return found


def accuracy(sequences: list[Sequence], scores: list[np.ndarray]) -> float:
    """Share of right frames, all cases pooled."""
    right = [s.argmax(1) == sequence.targets for sequence, s in zip(sequences, scores, strict=True)]
    return float(np.concatenate(right).mean())


def best_of_single_frames(sequences: list[Sequence]) -> float:
    """The accuracy of the best classifier that sees one frame: of phases 0 and 2 it can name only the longer."""
    counts = np.bincount(np.concatenate([s.targets for s in sequences]), minlength=3)
    return float((max(counts[0], counts[2]) + counts[1]) / counts.sum())
