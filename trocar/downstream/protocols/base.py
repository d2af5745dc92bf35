"""What a protocol is given, what it gives back, and the standardisation that several share.

What is kept of solved work: named arrays and JSON values, in one file with a checksum of every part.
"""

from __future__ import annotations

import json
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from trocar.core.config import Config
from trocar.core.files import writing
from trocar.core.registry import Registry
from trocar.downstream.features.feature_cache import Encoder
from trocar.downstream.features.frame_cache import Size
from trocar.downstream.labels import Kind, LabelSpace
from trocar.downstream.metrics.outcome import Floats, Ints, Outcome
from trocar.downstream.tasks.base import Task

WORDS = "words"


@dataclass(frozen=True)
class Solution:
    """Arrays by name (any but `words`), and JSON values."""

    arrays: Mapping[str, npt.NDArray[Any]]
    words: Any


def read_solution(path: Path) -> Solution | None:
    """None where there is none, or one that is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            # numpy reads no further than an array's header says, so a damaged header would leave the sum unchecked
            if archive.testzip() is not None:
                return None
        with np.load(path, allow_pickle=False) as parts:
            arrays = {name: parts[name] for name in parts.files}
            return Solution(arrays, json.loads(arrays.pop(WORDS).tobytes()))
    except Exception:  # what a damaged archive raises is endless, and computing it again is right for all of it
        return None


def write_solution(path: Path, solution: Solution) -> None:
    """The whole file or none; its folder is made. Raises OSError."""
    words = np.frombuffer(json.dumps(solution.words).encode(), dtype=np.uint8)
    parts: dict[str, Any] = {**solution.arrays, WORDS: words}
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as file:
        np.savez(file, **parts)


Targets = Ints | Floats
Kept = Callable[[Config, Callable[[], Solution]], Solution]
"""The network of a fine-tuning with these settings: one that is kept, else the one that the function trains."""


def made_anew(_: Config, train: Callable[[], Solution]) -> Solution:
    """Where no network is kept."""
    return train()


@dataclass(frozen=True)
class Goal:
    """A task as it is learned: `targets` of all N rows of the table, -1 where a row is unlabelled or its label hidden:
    class indices int64 [N], or 0 and 1 (soft: float64 in 0..1) per class [N, K].
    """

    task: Task
    space: LabelSpace
    targets: Targets

    def known(self, rows: Ints) -> Ints:
        """Those of `rows` that are labelled."""
        labelled = self.targets[rows] >= 0
        return rows[labelled if labelled.ndim == 1 else labelled.all(1)]


@dataclass(frozen=True)
class Problem:
    """One task on one fold, or several that are learned together: `goals`, the leading one first. They have the labels
    of training and validation cases and no others.

    `train`, `val` and `test` are rows of the table, rising in training and test. `val` are of labelled cases kept for
    choices, None where there are none: then a choice is made inside `train`. `case` [N] is the operation of every row
    of the table, also of rows without a label, and `time_s` [N] the seconds since the operation began; within an
    operation rows are in the order of time. `kept` knows networks that another protocol fine-tuned on this problem;
    `title` is what people are told it is.
    """

    goals: tuple[Goal, ...]
    encoder: Encoder
    train: Ints
    val: Ints | None
    test: Ints
    case: Ints
    time_s: Floats
    seed: int = 0
    kept: Kept = made_anew
    title: str = ""

    def called(self, work: str) -> str:
        """What progress lines and errors call a work on this problem."""
        return f"{self.title}: {work}" if self.title else work

    @property
    def task(self) -> Task:
        """The leading task."""
        return self.goals[0].task

    @property
    def space(self) -> LabelSpace:
        """How the leading task is labelled."""
        return self.goals[0].space

    @property
    def targets(self) -> Targets:
        """The leading task's, of all rows of the table."""
        return self.goals[0].targets

    def labels_of(self, rows: Ints) -> Targets:
        """`targets` with -1 in all rows but these."""
        found = np.full_like(self.targets, -1)
        found[rows] = self.targets[rows]
        return found

    def features(self, rows: Ints) -> Floats:
        """Frozen features of rows, float64 [n, D]."""
        return self.encoder.features[rows].astype(np.float64)

    def sequences(self, rows: Ints) -> list[Ints]:
        """Rows of every whole operation that `rows` touch, in time, unlabelled frames included."""
        return [np.flatnonzero(self.case == case) for case in np.unique(self.case[rows])]


@dataclass(frozen=True)
class Prediction:
    """`scores` float64 [m, K] of the test frames: probabilities; `others` the same for each partner by task name;
    `detail` is what was chosen on the way (JSON values).
    """

    scores: Floats
    detail: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Floats] = field(default_factory=dict)


class Protocol(Config):
    """How labels are learned from a backbone. A subclass has a `name` with a default; its fields are its settings."""

    name: str = Field(description="the name by which a file asks for it")
    title: str = Field(
        default="",
        max_length=80,
        pattern=r"^[^\x00-\x1f|]*$",
        description="what tables and files call it in place of its usual label; two entries of one protocol need "
        "different titles",
    )
    kinds: ClassVar[tuple[Kind, ...]] = ("multiclass", "multilabel")
    """Kinds of labels it can learn."""
    trains_network: ClassVar[bool] = False
    """Whether it changes the backbone: then baselines without one are left out."""
    joins_tasks: ClassVar[bool] = False
    """Whether it can learn several tasks together."""
    random_start: ClassVar[bool] = False
    """Whether its result follows from `Problem.seed`: then `repeats` of it are run."""
    goes_on: ClassVar[bool] = False
    """Whether more than predicting comes after its fine-tuning: then the network is worth keeping meanwhile."""

    @property
    def label(self) -> str:
        """What the table calls it."""
        return self.title or self.usual_label

    @property
    def usual_label(self) -> str:
        """What the table calls it without a title."""
        return self.name

    def input_size(self, size: int) -> Size:
        """The frames it reads in pixels, where the evaluation's own are squares of `size`."""
        return size

    def fine_tuning(self) -> Config | None:
        """Settings of the fine-tuning that it begins with: protocols with equal ones begin with one network. None where
        it has none.
        """
        return None

    @abstractmethod
    def predict(self, problem: Problem) -> Prediction:
        """Fit on the labelled frames, predict the test frames."""


PROTOCOLS: Registry[type[Protocol]] = Registry(
    "protocols",
    "protocol",
    package="trocar.downstream.protocols",
    accepts=lambda thing: isinstance(thing, type) and issubclass(thing, Protocol),
    expected="a subclass of Protocol whose `name` has a default",
)
"""The class of every protocol that can be asked for, by name."""


def decide(kind: Kind, scores: Floats) -> Ints:
    """Labels from probabilities: the most probable class [m], or each class at 0.5 and above [m, K]."""
    return scores.argmax(1).astype(np.int64) if kind == "multiclass" else (scores >= 0.5).astype(np.int64)


def headline(problem: Problem, rows: Ints, scores: Floats) -> float:
    """The leading task's headline of probabilities [n, K] of labelled rows [n]. As in the scoring of test frames, soft
    labels are rounded and classes that the official scoring leaves out are left out.
    """
    case = np.unique(problem.case[rows], return_inverse=True)[1].astype(np.int64)
    truth, space = problem.targets[rows].round().astype(np.int64), problem.space
    decided = decide(space.kind, scores)
    return problem.task.score(Outcome(truth, decided, scores, case, classes=space.classes, unscored=space.unscored))


def best_of(scores: Sequence[float]) -> int | None:
    """Place of the largest score, of equal ones of the first. NaN is no score; None where there is no other."""
    return None if np.isnan(scores).all() else int(np.nanargmax(scores))


def standardise(train: Floats, *others: Floats) -> list[Floats]:
    """Every dimension to mean 0 and standard deviation 1 over `train`; constant dimensions become 0."""
    mean = train.mean(0)
    deviation = train.std(0)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-8 * (np.abs(mean) + 1e-8))
    return [(x - mean) * scale for x in (train, *others)]


def one_hot(targets: Targets, classes: int) -> Floats:
    """[n] class indices -> [n, K] of 0 and 1; targets that are [n, K] already are only converted."""
    return np.eye(classes)[targets.astype(np.int64)] if targets.ndim == 1 else targets.astype(np.float64)
