"""What suits a given amount of data: values for `auto`, and warnings where a given value makes no sense.

Recipes of the papers are for a million images. On a few thousand frames a loss that stays at ln K, negatives that are
all of the same frames, or a teacher that never moves are the usual ways to train nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

Auto = Literal["auto"]
Value = TypeVar("Value", int, float)
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class DataSize:
    """How much there is to learn from: selected frames, global batch, steps of the run and of an epoch."""

    frames: int
    batch: int
    total: int
    epoch_steps: int


@dataclass(frozen=True)
class Advice:
    """About one value: `key` within the section, what was given, what suits, and what is wrong with it ("" if fine)."""

    key: str
    given: int | float | str
    suits: int | float | str
    wrong: str = ""


def known(value: Value | Auto) -> Value:
    """The number in a resolved configuration."""
    if value == "auto":
        raise ValueError("`auto` stands for a number only after `resolved`")
    return value


def choose(config: Model, advice: Sequence[Advice]) -> Model:
    """The configuration with what suits in the place of each `auto`."""
    for item in advice:
        if item.given == "auto":
            config = _with(config, item.key.split("."), item.suits)
    return config


def _with(config: Model, path: Sequence[str], value: Any) -> Model:
    if len(path) > 1:
        value = _with(getattr(config, path[0]), path[1:], value)
    return config.model_copy(update={path[0]: value})


def warning(section: str, advice: Advice) -> str:
    """The advice as a line for people."""
    return f"{section}.{advice.key}={advice.given}: {advice.wrong}; {section}.{advice.key}={advice.suits} would suit"


def prototypes(key: str, given: int | Auto, data: DataSize, most: int = 65536) -> Advice:
    """K: the power of two at or below a quarter of the frames, 64 to `most`; more than there are frames is wrong."""
    suits = min(most, max(64, 2 ** int(math.log2(max(64, data.frames / 4)))))
    wrong = ""
    if given != "auto" and given > max(data.frames, suits):
        wrong = f"{given} prototypes for {data.frames} frames, the loss may stay at ln K = {math.log(given):.2f}"
    return Advice(key, given, suits, wrong)


def queue(key: str, given: int | Auto, data: DataSize, most: int = 65536) -> Advice:
    """Length of a queue: whole batches within half of the frames, so that no frame is in it twice."""
    suits = min(most // data.batch, data.frames // (2 * data.batch)) * data.batch
    suits = max(data.batch, suits)
    wrong = ""
    if given != "auto" and given > max(data.frames, data.batch):
        wrong = f"a queue of {given} holds each of {data.frames} frames {given / data.frames:.1f} times"
    return Advice(key, given, suits, wrong)


def momentum(key: str, given: float | Auto, data: DataSize, published: float) -> Advice:
    """Of a teacher: the largest usual value up to the published one that averages over no more than the run."""
    usual = [m for m in (0.9, 0.99, 0.996, 0.999) if m < published] + [published]
    suits = max([m for m in usual if m < 1 and _averaged(m) <= data.total] or [usual[0]])
    wrong = ""
    if given != "auto" and suits < given < 1 and _averaged(given) > data.total:
        wrong = f"the teacher averages over {_averaged(given)} steps, the run has {data.total}"
    return Advice(key, given, suits, wrong)


def _averaged(momentum: float) -> int:
    """Over how many steps; rounded, because 1 / (1 - 0.996) is a little more than 250 in floating point."""
    return round(1 / (1 - momentum))


SHORT = 1000  # steps; the loss of a run with a teacher temperature of .04 was seen to stay at ln K for some hundreds


def teacher_temperature(key: str, given: float | Auto, data: DataSize, published: float = 0.04) -> Advice:
    """Half the published one for a short run: a sharper teacher leaves ln K sooner."""
    suits = published / 2 if data.total < SHORT else published
    wrong = ""
    if given != "auto" and given >= published and data.total < SHORT:
        wrong = f"in a run of {data.total} steps the loss may stand at ln K for long"
    return Advice(key, given, suits, wrong)


def at_first(key: str, given: str, steps: int, data: DataSize) -> Advice:
    """What is done at first (a part kept still, a warm-up): no more than a tenth of the run."""
    wrong = f"that is {steps} of the {data.total} steps" if steps > data.total / 2 else ""
    return Advice(key, given, f"{max(1, data.total // 10)} steps", wrong)
