"""Small outcomes that several metric tests share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trocar.downstream.metrics.outcome import Ints, Outcome

CHOLEC80 = (
    "Preparation",
    "CalotTriangleDissection",
    "ClippingCutting",
    "GallbladderDissection",
    "GallbladderPackaging",
    "CleaningCoagulation",
    "GallbladderRetraction",
)


def labelled(gt: list[int], pred: list[int], case: list[int], classes: int = 3) -> Outcome:
    """One label a frame; the scores are certain of the prediction."""
    return Outcome(np.array(gt), np.array(pred), np.eye(classes)[pred], np.array(case))


def random_multiclass(seed: int, cases: int = 4, classes: int = 7) -> Outcome:
    """Cases of 20 to 40 frames in segments, a third of them predicted wrongly, probabilities as scores; some
    cases lack some phases. Classes and times are those of Cholec80 at 1 frame per second.
    """
    generator = np.random.default_rng(seed)
    case = np.repeat(np.arange(cases), generator.integers(20, 40, cases))
    gt = np.concatenate([_segments(generator, int(n), classes) for n in np.bincount(case)])
    scores = generator.random((len(case), classes)) + 1.5 * np.eye(classes)[gt] * (
        generator.random((len(case), 1)) > 0.3
    )
    scores /= scores.sum(1, keepdims=True)
    names = CHOLEC80 if classes == 7 else tuple(f"class{i}" for i in range(classes))
    return Outcome(gt, scores.argmax(1), scores, case, classes=names)


def _segments(generator: np.random.Generator, frames: int, classes: int) -> Ints:
    present = np.sort(generator.choice(classes, classes - 2, replace=False))
    return present[np.arange(frames) * len(present) // frames]


def random_multilabel(seed: int, cases: int = 4, classes: int = 7) -> Outcome:
    """Cases of 20 to 40 frames, probabilities as scores with ties, the last class absent everywhere, soft
    labels, two folds.
    """
    generator = np.random.default_rng(seed)
    case = np.repeat(np.arange(cases), generator.integers(20, 40, cases))
    gt = (generator.random((len(case), classes)) < generator.random(classes) * 0.6).astype(np.int64)
    gt[:, -1] = 0
    scores = np.round(np.clip(0.4 * gt + generator.random(gt.shape) * 0.6, 0, 1), 2)
    soft = np.clip(gt + generator.choice([-1, 0, 1], gt.shape) / 3, 0, 1)
    return Outcome(gt, (scores >= 0.5).astype(np.int64), scores, case, soft=soft, fold=case % 2)


def triplet_outcome(seed: int, cases: int = 4) -> Outcome:
    """Eleven triplets of 3 instruments, 3 verbs and 3 targets, two of them null."""
    names = [
        *(f"{i},{v},{t}" for i, v, t in ["aaa", "aab", "aba", "bab", "bbc", "cbc", "cca", "ccc", "caa"]),
        "a,null_verb,null_target",
        "c,null_verb,null_target",
    ]
    return replace(random_multilabel(seed, cases, len(names)), classes=tuple(names))


def listed(outcome: Outcome, times: list[int]) -> Outcome:
    """The outcome in which case c is there `times[c]` times, each time as a case of its own."""
    copies = [c for c, n in enumerate(times) for _ in range(n)]
    rows = np.concatenate([outcome.rows_of_case[c] for c in copies])
    case = np.repeat(np.arange(len(copies)), [len(outcome.rows_of_case[c]) for c in copies])
    taken = {
        name: None if getattr(outcome, name) is None else getattr(outcome, name)[rows]
        for name in ("gt", "pred", "scores", "soft", "fold", "time_s")
    }
    return replace(outcome, case=case, **taken)
