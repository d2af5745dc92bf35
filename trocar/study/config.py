"""The study file: which compositions are compared, listed or as a grid, on which tasks, and what is held equal."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from trocar.backbones.device import Wanted
from trocar.core.config import Config, WithPlugins, load
from trocar.data.labelled_data import Policy
from trocar.data.remote.store import Place
from trocar.data.selection.composition import Composition, VideoFilter
from trocar.downstream.evaluation.evaluate_config import LabelledTask
from trocar.downstream.metrics.registry import metric_named
from trocar.downstream.protocols import get_protocol
from trocar.downstream.protocols.base import Protocol
from trocar.downstream.tasks import TOGETHER, get_task
from trocar.errors import ConfigError, nearest
from trocar.privacy.private_data import PrivacyConfig

ANY = "all"
"""On an axis of the grid: no restriction."""


class GridConfig(Config):
    """Every combination of the given values is an arm, called after its values: `north-cholecystectomy-20`.

    A cell that the catalog can't fill is an error, or with `base.on_short: skip` left out and listed.
    """

    source: list[str] = Field(
        default=[], description="an axis: names of data sets, several joined by `+`, or `all` for no restriction"
    )
    hospital: list[str] = Field(
        default=[], description="an axis: names of hospitals, several joined by `+`, or `all` for no restriction"
    )
    procedure: list[str] = Field(
        default=[], description="an axis: names of procedures, several joined by `+`, or `all` for no restriction"
    )
    cases: list[int] = Field(default=[], description="an axis: numbers of cases")
    weights: list[str] = Field(default=[], description="an axis: mixture weights, such as proportional and uniform")
    base: Composition = Field(
        default=Composition(), description="the rest of the composition; its `include` holds for every cell"
    )
    skip: list[str] = Field(default=[], description="cells that are left out, by name")

    def cells(self) -> dict[str, dict[str, Any]]:
        """Name -> composition as plain values. Raises ValueError for a `skip` that is no cell, and for an axis of the
        grid that `base` sets as well.
        """
        self._check_base()
        found = dict(self._all())
        strange = sorted(set(self.skip) - set(found))
        if strange:
            raise ValueError(f"grid.skip: no cell {strange[0]!r}; cells: {', '.join(found)}")
        return {name: cell for name, cell in found.items() if name not in self.skip}

    def _all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        axes = {
            name: values
            for name in ("source", "hospital", "procedure", "cases", "weights")
            if (values := getattr(self, name))
        }
        if not axes:
            raise ValueError("the grid has no axis: give hospital, procedure, source, cases or weights")
        for point in itertools.product(*axes.values()):
            cell = dict(zip(axes, point, strict=True))
            yield "-".join(map(str, point)), self._composition(cell)

    def _composition(self, cell: dict[str, Any]) -> dict[str, Any]:
        tree = self.base.model_dump(mode="json")
        wanted = {
            name: str(cell[name]).split("+")
            for name in ("source", "hospital", "procedure")
            if cell.get(name, ANY) != ANY
        }
        if wanted:
            tree["include"] = [match | wanted for match in tree["include"]] or [wanted]
        if "cases" in cell:
            tree["sample"]["cases"] = cell["cases"]
        if "weights" in cell:
            tree["weights"] = cell["weights"]
        return tree

    def _check_base(self) -> None:
        for axis in ("source", "hospital", "procedure"):
            if getattr(self, axis) and any(getattr(match, axis) is not None for match in self.base.include):
                raise ValueError(f"grid.base.include sets {axis}, which is an axis of the grid; keep one")
        if self.cases and self.base.sample.cases is not None:
            raise ValueError("grid.base.sample.cases and grid.cases: keep one")


Name = Annotated[str, StringConstraints(pattern=r"^[\w.+ -]+$")]
"""What arms, tasks and studies are called: letters, digits, blanks and `_ . + -`."""
INIT, RANDOM = "init", "random"
ALL = "100%"
"""How a budget of all labels is called."""


class ArmConfig(Composition):
    """A composition, written as in `trocar pretrain`, and what else is its own."""

    seed: int = Field(
        default=0,
        ge=0,
        description="added to every pretraining seed of this arm: two arms of one composition with different seeds "
        "are an A/A contrast",
    )
    set: list[str] = Field(default=[], description="overrides of the recipe, such as method.momentum=0.99")

    @property
    def composition(self) -> Composition:
        """The arm without what is not its composition."""
        return Composition.model_validate(self.model_dump(exclude={"seed", "set"}))


class Baselines(Config):
    """What stands beside the arms."""

    init: bool = Field(default=True, description="the weights that pretraining began from")
    random: bool = Field(
        default=True,
        description="random weights of the same architecture; one baseline with `init` where that is random",
    )
    backbones: dict[Name, str] = Field(default={}, description="label -> any name or path of a backbone")


class RecipeConfig(Config):
    """How every arm is pretrained, and for how long, in the unit of the study's `match`."""

    recipe: str = Field(description="a file or preset of `trocar pretrain`")
    set: list[str] = Field(default=[], description="overrides of it, such as train.batch=128")
    steps: int | None = Field(
        default=None, ge=1, description="length of every arm in steps, with `match: steps`; null: what the recipe says"
    )
    epochs: float | None = Field(
        default=None,
        gt=0,
        description="length of every arm in epochs, with `match: epochs`; null: what the recipe says",
    )


class TaskConfig(LabelledTask):
    """One labelled data set with one task; the fields are those of `trocar evaluate`.

    Tasks that differ in nothing but `score`, `metric` or `cases` share their stages.
    """

    task: str | None = Field(
        default=None, description="the task, or several joined by `+`; null: the name it has in the study"
    )
    budgets: list[str | int | None] = Field(
        default=[None],
        min_length=1,
        description="labelled training cases, each a number, a share or a published list; null or 100% takes all",
    )
    score: str | None = Field(
        default=None, description="of several tasks learned together the one that is compared; null: the first"
    )
    metric: str | None = Field(default=None, description="what the report compares; null: the task's headline")
    cases: VideoFilter | None = Field(
        default=None, description="only these test cases are compared, by what the catalog says of them; null: all"
    )

    @field_validator("budgets")
    @classmethod
    def _all_is_none(cls, budgets: list[str | int | None]) -> list[str | int | None]:
        found = [None if budget == ALL else budget for budget in budgets]
        if len(set(map(str, found))) < len(found):
            raise ValueError("a budget is listed twice")
        return found


class SpeedConfig(Config):
    """Stated speeds, for estimates where nothing has been measured."""

    images_per_s: float | None = Field(
        default=None, gt=0, description="frames per second of pretraining on one GPU or machine"
    )
    evaluate_min: float | None = Field(default=None, gt=0, description="minutes of one evaluation")


class StudyConfig(WithPlugins):
    """Everything about one study."""

    name: Name = Field(description="the name of the study: letters, digits, blanks and `_ . + -`")
    store: Path = Field(description="the folder for stages, which several studies may share")
    prepare: list[str] = Field(
        default=[],
        description="trocar commands that make the data, run by `study run` before anything is planned; each must do "
        "nothing where its work is done",
    )
    catalog: Place = Field(
        description="the shards folder that `trocar ingest` wrote, or its address in a store (`s3://...`, `https://...`)"
    )
    arms: dict[Name, ArmConfig] = Field(default={}, description="name -> composition of an arm")
    grid: GridConfig | None = Field(
        default=None, description="arms that are all combinations of given values; null: none"
    )
    unavailable: dict[str, str] = Field(
        default={},
        description="cells of a published design that can't be filled -> why; they stand in the plan and the report",
    )
    baselines: Baselines = Field(default=Baselines(), description="what stands beside the arms")
    pretrain: RecipeConfig = Field(description="how every arm is pretrained")
    match: Literal["steps", "epochs"] = Field(
        description="what arms of different size have in common, the number of steps or of epochs"
    )
    tasks: dict[Name, TaskConfig] = Field(min_length=1, description="name -> labelled data with a task")
    pretrain_seeds: int = Field(
        default=3, ge=1, le=100, description="runs of every arm, 1 to 100; each draws its cases anew"
    )
    finetune_seeds: int = Field(
        default=1, ge=1, le=100, description="starts of protocols that have a random one, 1 to 100"
    )
    budget_draws: int = Field(default=1, ge=1, le=100, description="draws of each label budget, 1 to 100")
    contrasts: list[tuple[str, str]] | None = Field(
        default=None,
        description="pairs of arms or baselines that are tested; null: each arm against its init, at all labels",
    )
    leak: Policy = Field(
        default="exclude",
        description="what becomes of pool cases that are test or validation cases of any task: they leave every pool "
        "before it is sampled, are an error, or stay",
    )
    leave_out: Literal["all", "task"] = Field(
        default="all",
        description="all: the held-out cases of all tasks leave every pool, so that one pretraining serves all tasks; "
        "task: those of one task alone, so that pools are larger, and every set of tasks with the same held-out cases "
        "has pretrainings of its own",
    )
    keep: Literal["backbone", "full"] = Field(
        default="backbone", description="what stays of a finished pretraining: backbone and milestones, or everything"
    )
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of every stage; null: the cores divided by the jobs"
    )
    device: str = Field(default="auto", description="auto, cpu or cuda")
    precision: Wanted = Field(
        default="auto",
        description="what evaluations compute in, and pretrainings whose recipe says `auto` or nothing; auto is "
        "settled by the plan",
    )
    privacy: PrivacyConfig = Field(
        default=PrivacyConfig(), description="whether private cases, hospitals and frames are shown"
    )
    speed: SpeedConfig = Field(
        default=SpeedConfig(), description="stated speeds, for estimates where nothing has been measured"
    )

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
    return checked(load(StudyConfig, path, overrides), str(path))


def checked(study: StudyConfig, path: str) -> StudyConfig:
    """The same, with every name checked that can be without data; `path` is what errors call it. Raises ConfigError."""
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


def budget_name(budget: str | int | None) -> str:
    """What a label budget is called: 100% for all labels (None)."""
    return ALL if budget is None else str(budget)


def labels_of(budget: str) -> str:
    """A budget in words: `25% of the labels`, `1 labelled case`, or `labels of LIST` for a published list."""
    if budget.endswith("%"):
        return f"{budget} of the labels"
    return f"{budget} labelled case{'s' * (budget != '1')}" if budget.isdecimal() else f"labels of {budget}"
