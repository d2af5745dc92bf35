"""Schedules: pure functions of the step, after `cosine_scheduler` of DINO's reference code (arXiv 2104.14294)."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import AfterValidator

from trocar.errors import ConfigError

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(steps?|epochs?|%)\s*")


def _check_duration(value: str) -> str:
    if not _DURATION.fullmatch(value):
        raise ValueError("expected a number with its unit, such as '500 steps', '10 epochs' or '10 %'")
    return value


Duration = Annotated[str, AfterValidator(_check_duration)]
"""A length of training: '500 steps', '10 epochs' or '10 %' (of the run)."""


def steps_in(duration: Duration, epoch_steps: int, total: int) -> int:
    """A duration in steps; an epoch is `epoch_steps` steps, a percentage is of `total`."""
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise ConfigError(f"not a duration: {duration!r}")
    number, unit = float(match[1]), match[2]
    if unit == "%":
        return round(number / 100 * total)
    return round(number * (epoch_steps if unit.startswith("epoch") else 1))


def counts_epochs(duration: Duration) -> bool:
    """Whether a duration is given in epochs."""
    return "epoch" in duration


def warmed_up(step: int, base: float, warmup: int, start: float = 0.0) -> float:
    """Linear from `start` to `base` over `warmup` steps (numpy's linspace), then `base`."""
    if step < warmup:
        return start + (base - start) * step / max(1, warmup - 1)
    return base


def cosine(step: int, base: float, final: float, total: int, warmup: int = 0, start: float = 0.0) -> float:
    """Warm-up from `start` to `base` over `warmup` steps, then a half cosine to `final`.

    After the warm-up: final + (base - final) (1 + cos(pi i / n)) / 2 with i = step - warmup, n = total - warmup.
    As in the reference, step total - 1 is the last one, so `final` itself is approached, not reached.
    """
    if step < warmup:
        return warmed_up(step, base, warmup, start)
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def stairs(step: int, start: float, end: float, warmup: int, stair: int) -> float:
    """numpy's linspace(start, end) over `warmup` steps, held for `stair` steps at a time, then `end`.

    The teacher's temperature: DINO's code has one value per epoch, DINOv2's and VISSL's one per step.
    """
    if step >= warmup:
        return end
    return start + (end - start) * (step // stair) / max(1, math.ceil(warmup / stair) - 1)
