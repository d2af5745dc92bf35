"""The study file: which compositions are compared, on which tasks, and what is held equal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from trocar.backbones.device import Wanted
from trocar.core.config import AsWritten, Config, load
from trocar.data.leak.guard import Policy
from trocar.data.selection.composition import Composition, VideoFilter
from trocar.downstream.protocols import get_protocol
from trocar.downstream.protocols.base import Protocol
from trocar.downstream.tasks import TOGETHER, get_task
from trocar.errors import ConfigError, nearest
from trocar.privacy.marks import NO_MARKS, Marks, PrivacyConfig
from trocar.study.grid import GridConfig
from trocar.study.results.metric_lookup import metric_named

Name = Annotated[str, StringConstraints(pattern=r"^[\w.+ -]+$")]
"""What arms, tasks and studies are called: letters, digits, blanks and `_ . + -`."""
INIT, RANDOM = "init", "random"
ALL_LABELS = (None, "100%")


class ArmConfig(Composition):
    """A composition, written as in `trocar pretrain`, and what else is its own.

    `seed` is added to every pretraining seed of this arm: two arms of one composition with different seeds are an A/A
    contrast. `set`: overrides of the recipe, such as `method.momentum=0.99`.
    """

    seed: int = Field(default=0, ge=0)
    set: list[str] = []

    @property
    def composition(self) -> Composition:
        """The arm without what is not its composition."""
        return Composition.model_validate(self.model_dump(exclude={"seed", "set"}))


class Baselines(Config):
    """What stands beside the arms: `init`, the weights that pretraining began from; `random`, random weights of the
    same architecture (one baseline with `init` where that is random); `backbones`: label -> any name or path of a
    backbone."""

    init: bool = True
    random: bool = True
    backbones: dict[Name, str] = {}


class RecipeConfig(Config):
    """How every arm is pretrained: a file or preset of `trocar pretrain`, overrides, and the length in the unit of the
    study's `match` (None: what the recipe says)."""

    recipe: str
    set: list[str] = []
    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)


class TaskConfig(Config):
    """One labelled data set with one task; the fields are those of `trocar evaluate`.

    `task` defaults to the name it has in the study; `phase+tools` learns two together, of which `score` is compared
    (None: the first). `budgets`: labelled training cases, each a number, a share or a published list; null or 100%
    takes all. `metric`: what the report compares, instead of the task's headline. `cases`: only these test cases are
    compared, by what the catalog says of them. Tasks that differ in nothing but `score`, `metric` or `cases` share
    their stages. `private`: what must not be shown, besides what DATA/private.yaml and the shards mark.
    """

    data: Path
    task: str | None = None
    layout: str | None = None
    protocol: list[str | dict[str, Any]] = Field(default=["linear"], min_length=1)
    budgets: list[str | int | None] = Field(default=[None], min_length=1)
    val: str = "auto"
    folds: str | int = "auto"
    split: str | None = None
    fps: float = Field(default=1.0, gt=0)
    size: int | None = Field(default=None, ge=16, le=2048)
    remap: str | None = None
    shards: Path | None = None
    phases: list[AsWritten] = []
    batch: int | None = Field(default=None, ge=1)
    score: str | None = None
    metric: str | None = None
    cases: VideoFilter | None = None
    private: Marks = NO_MARKS

    @field_validator("budgets")
    @classmethod
    def _all_is_none(cls, budgets: list[str | int | None]) -> list[str | int | None]:
        found = [None if budget in ALL_LABELS else budget for budget in budgets]
        if len(set(map(str, found))) < len(found):
            raise ValueError("a budget is listed twice")
        return found


class SpeedConfig(Config):
    """Stated speeds, for estimates where nothing has been measured: frames per second of pretraining on one GPU (or
    machine), minutes of one evaluation."""

    images_per_s: float | None = Field(default=None, gt=0)
    evaluate_min: float | None = Field(default=None, gt=0)


class StudyConfig(Config):
    """Everything about one study.

    `prepare`: trocar commands that make the data, run by `study run` before anything is planned; each must do nothing
    where its work is done. `match`: what arms of different size have in common, the number of steps or of epochs.
    `unavailable`: cells of a published design that can't be filled -> why; they stand in the plan and the report.
    `pretrain_seeds`: runs of every arm; each draws its cases anew. `finetune_seeds`: starts of protocols that have a
    random one. `budget_draws`: draws of each label budget. `contrasts`: pairs of arms or baselines to be tested (None:
    each arm against its init, at all labels). `leak`: what becomes of pool cases that are test or validation cases of
    any task: they leave every pool before it is sampled, are an error, or stay. `leave_out`: the cases of `all` tasks
    leave every pool, so that one pretraining serves all tasks; or those of one `task` alone, as EndoViT does it: pools
    are larger, and every set of tasks with the same held-out cases has pretrainings of its own. `keep`: of a finished
    pretraining, `backbone` and milestones, or everything. `threads`: CPU threads of every stage (None: the cores
    divided by the jobs). `precision`: what evaluations compute in, and pretrainings whose recipe says `auto` or
    nothing; auto is settled by the plan. `privacy`: whether private cases, hospitals and frames are shown.
    """

    name: Name
    store: Path
    prepare: list[str] = []
    catalog: Path
    arms: dict[Name, ArmConfig] = {}
    grid: GridConfig | None = None
    unavailable: dict[str, str] = {}
    baselines: Baselines = Baselines()
    pretrain: RecipeConfig
    match: Literal["steps", "epochs"]
    tasks: dict[Name, TaskConfig] = Field(min_length=1)
    pretrain_seeds: int = Field(default=3, ge=1, le=100)
    finetune_seeds: int = Field(default=1, ge=1, le=100)
    budget_draws: int = Field(default=1, ge=1, le=100)
    contrasts: list[tuple[str, str]] | None = None
    leak: Policy = "exclude"
    leave_out: Literal["all", "task"] = "all"
    keep: Literal["backbone", "full"] = "backbone"
    threads: int | None = Field(default=None, ge=1)
    device: str = "auto"
    precision: Wanted = "auto"
    privacy: PrivacyConfig = PrivacyConfig()
    speed: SpeedConfig = SpeedConfig()

    @model_validator(mode="after")
    def _consistent(self) -> StudyConfig:
        if "," in str(self.store):
            raise ValueError("store: a folder without a comma: `trocar evaluate` divides paths there")
        other = "epochs" if self.match == "steps" else "steps"
        if getattr(self.pretrain, other) is not None:
            raise ValueError(f"match: {self.match}, but pretrain.{other} is set; give pretrain.{self.match}")
        if self.leave_out == "task" and self.leak != "exclude":
            raise ValueError(f"leave_out: task needs leak: exclude; under {self.leak} no case leaves a pool")
        arms = self.all_arms()
        if not arms:
            raise ValueError("there is nothing to compare: give arms or a grid")
        strange = sorted(set(arms) & ({INIT, RANDOM} | set(self.baselines.backbones)))
        if strange:
            raise ValueError(f"{strange[0]!r} is both an arm and a baseline; rename one")
        return self

    def all_arms(self) -> dict[str, ArmConfig]:
        """The named arms, then the cells of the grid. Raises ValueError for a name that is used twice."""
        cells = self.grid.cells() if self.grid is not None else {}
        twice = sorted(set(cells) & set(self.arms))
        if twice:
            raise ValueError(f"{twice[0]!r} is an arm and a cell of the grid; rename the arm")
        return {**self.arms, **{name: ArmConfig.model_validate(cell) for name, cell in cells.items()}}


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study file or preset, and check every name that can be checked without data. Raises ConfigError."""
    study = load(StudyConfig, path, overrides)
    for name, task in study.tasks.items():
        try:
            _check_task(name, task)
        except ConfigError as error:
            raise ConfigError(f"{path}: tasks.{name}: {error}") from None
    names = [*study.all_arms(), INIT, RANDOM, *study.baselines.backbones]
    for a, b in study.contrasts or ():
        for arm in (a, b):
            base = arm.removeprefix(f"{INIT} ") if arm.startswith(f"{INIT} ") else arm
            if base not in names:
                raise ConfigError(
                    f"{path}: contrasts: no arm or baseline {arm!r}{nearest(arm, names)}; there are {', '.join(names)}"
                )
    return study


def _check_task(name: str, task: TaskConfig) -> None:
    together = [get_task(one).name for one in task_name(name, task).split(TOGETHER)]
    if task.score not in (None, *together):
        raise ConfigError(f"score: {task.score!r}: this task learns {' and '.join(together)}")
    labels = [get_protocol(protocol).label for protocol in task.protocol]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ConfigError(f"protocol {twice!r} is listed twice; put the second in a task of its own")
    if task.metric is not None:
        metric_named(task.score or together[0], task.metric)


def task_name(name: str, task: TaskConfig) -> str:
    """Which task of `trocar.downstream.tasks` it is, or several joined by `+`."""
    return task.task or name


def called_on(name: str, task: TaskConfig, protocol: Protocol) -> str:
    """What predictions of the task call the protocol: with the tasks, where several are learned together."""
    learned = task_name(name, task)
    return f"{protocol.label}, {learned}" if TOGETHER in learned else protocol.label
