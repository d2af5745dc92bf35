"""Which operation a case index stands for. Depends on (version, seed, index) only, never on the number of cases."""

from __future__ import annotations

from typing import Literal

from trocar.phantom.spec import HOSPITALS, PROCEDURES, CasePlan, PhantomSpec
from trocar.phantom.streams import stream

# Fixed over six cases (one of every hospital and procedure), so that four cases already hold all three splits.
SPLIT_CYCLE: tuple[Literal["train", "val", "test"], ...] = ("train", "test", "train", "val", "train", "test")
ROBOTIC_SHARE = {"cholecystectomy": 0.15, "sleeve_gastrectomy": 0.3, "hysterectomy": 0.6}
TWO_FILE_CYCLE = 5


def plan_case(spec: PhantomSpec, index: int) -> CasePlan:
    """The plan of case `index` (0-based). Six consecutive cases cover hospitals x procedures in a random order."""
    combinations = [(h, p) for h in HOSPITALS for p in PROCEDURES]
    order = stream(spec.seed, "plan", index // len(combinations)).permutation(len(combinations))
    hospital, procedure = combinations[int(order[index % len(combinations)])]
    rng = stream(spec.seed, "plan", "case", index)
    frames = max(12, round(spec.minutes * 60 * spec.fps * rng.uniform(0.8, 1.2)))
    at = rng.uniform(0.35, 0.65)
    return CasePlan(
        index=index,
        hospital=hospital,
        procedure=procedure,
        robotic=bool(rng.random() < ROBOTIC_SHARE[procedure]),
        split=SPLIT_CYCLE[index % len(SPLIT_CYCLE)],
        frames=frames,
        cut=round(frames * at) if index % TWO_FILE_CYCLE == 2 else None,
    )
