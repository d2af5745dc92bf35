"""The evaluation stages: one for every backbone, task, protocol and label budget, with all draws of the budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from trocar.backbones.device import Precision
from trocar.backbones.source import modules_behind
from trocar.core.config import fingerprint
from trocar.core.plugins import plugins_in
from trocar.core.registry import modules_of
from trocar.data.catalog.catalog import Catalog
from trocar.data.selection.composition import Composition
from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DATASETS
from trocar.downstream.evaluation.contenders import check_tasks
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig, LabelledTask
from trocar.downstream.evaluation.experiment import Experiment, make_experiment
from trocar.downstream.folds import Budget
from trocar.downstream.labels import LabelledFrames
from trocar.downstream.metrics.outcome import Ints
from trocar.downstream.metrics.registry import NO_BACKGROUND
from trocar.downstream.protocols import get_protocol
from trocar.downstream.tasks.base import METRICS, TASKS, Task
from trocar.errors import ConfigError
from trocar.study.config import StudyConfig, budget_name, called_on, task_name
from trocar.study.planned_pretrainings import settled
from trocar.study.stages import Stage
from trocar.study.study_lock import Folds, LockedEvaluation, LockedTask


@dataclass(frozen=True)
class ScoredBackbone:
    """A backbone to be scored: `arm` is what it is called in the study, `kind` pretrained, init, random or backbone.

    `parent`: its pretraining stage, else `source`: its name, with `identity` of its weights. `members`: draws of random
    weights in one stage. `size`: pixels of the input where the task says nothing (None: what it was trained with).
    `tasks`: those it may be scored on (None: all).
    """

    arm: str
    kind: str
    seed: int | None = None
    parent: str | None = None
    source: str | None = None
    identity: Mapping[str, Any] | None = None
    members: int = 1
    size: int | None = None
    tasks: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Evaluation:
    """One evaluation stage and its place in the study. Its predictions are of `members`, each with `draws` of the
    budget, each with `starts` of the protocol; `seed` is the pretraining seed (None: the members are seeds).
    """

    arm: str
    kind: str
    seed: int | None
    task: str
    protocol: str
    budget: str
    members: int
    draws: int
    starts: int
    stage: Stage

    def locked(self) -> LockedEvaluation:
        """For the lock: the stage by its name."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        return LockedEvaluation(**{**told, "stage": self.stage.name})


class TaskPlan:
    """A task of the study with its data opened, computed in `precision`. Raises ConfigError for budgets and folds that
    cannot be.
    """

    def __init__(self, study: StudyConfig, name: str, precision: Precision = "float32") -> None:
        self.study, self.name, self.config, self.precision = study, name, study.tasks[name], precision

    @cached_property
    def data(self) -> LabelledFrames:
        """The labels, without any picture."""
        return open_dataset(self.config.data, self.config.layout, self.config.dataset_options())

    @cached_property
    def bench(self) -> Experiment:
        """The folds, with all labels."""
        config = self.config
        return make_experiment(task_name(self.name, config), self.data, config.folds, config.val, config.fps)

    @cached_property
    def task(self) -> Task:
        """What is compared: the bench's task, or one of those that are learned together."""
        return next(task for task in self.bench.tasks if self.config.score in (None, task.name))

    def check(self) -> None:
        """Raises ConfigError for a protocol that can't learn these labels, or not together."""
        try:
            for protocol in self.config.protocol:
                check_tasks([self.bench], [get_protocol(protocol)])
        except ConfigError as error:
            raise ConfigError(f"tasks.{self.name}: {error}") from None
        metric, space = self.config.metric or "", self.bench.space(self.task)
        if space.kind == "mask" and metric.endswith(NO_BACKGROUND) and space.background is None:
            raise ConfigError(
                f"tasks.{self.name}.metric: {metric!r} leaves out the background, and {self.data.root} declares none: "
                f"name it in classes.yaml, or take {metric.removesuffix(NO_BACKGROUND)!r}"
            )

    @cached_property
    def asked(self) -> str:
        """Hash of what the study says about the data."""
        return fingerprint(self.config.model_dump(mode="json", include=_DATA))

    def drawn(self) -> dict[str, tuple[Folds, ...]]:
        """Budget -> draw -> fold -> the labelled training cases."""
        found = {}
        for budget in self.config.budgets:
            bench = self._with(budget)
            found[budget_name(budget)] = tuple(
                {fold.name: self._cases(fold.train) for fold in bench.drawn(draw)} for draw in range(bench.draws)
            )
        return found

    def _with(self, budget: str | int | None) -> Experiment:
        """The folds with the labels of a budget. Of all labels a single draw: more would only change stages' names."""
        return replace(self.bench, budget=Budget(budget, 1 if budget is None else self.study.budget_draws))

    def locked(self) -> LockedTask:
        """For the lock."""
        bench = self.bench
        return LockedTask(
            asked=self.asked,
            task=self.task.name,
            metric=self.config.metric or self.task.in_tables(bench.space(self.task))[0],
            root=str(self.data.root.absolute()),
            layout=self.data.layout,
            data=self.data.fingerprint,
            frames=int(bench.labelled(self.task).sum()),
            scheme=bench.scheme,
            test_cases={fold.name: self._cases(self._scored_rows(fold.test)) for fold in bench.folds},
            val_cases={fold.name: self._cases(fold.val) for fold in bench.folds},
            draws=self.drawn(),
            scored=self.scored(),
            precision=self.precision,
        )

    def scored(self) -> tuple[str, ...] | None:
        """The test cases that are compared, None for all. Raises ConfigError if there are none."""
        if self.config.cases is None:
            return None
        chosen = Composition(include=[self.config.cases], curate="none").resolve(Catalog.open(self.study.catalog))
        wanted = {case.partition("/")[2] for case in chosen.cases}
        found = tuple(case for case in self._cases(self._scored_rows(self.bench.rows)) if case in wanted)
        if not found:
            raise ConfigError(f"tasks.{self.name}.cases: none of the test cases is among those {len(wanted)} cases")
        return found

    def evaluations(self, backbone: ScoredBackbone) -> Iterator[Evaluation]:
        """All stages of one backbone."""
        for wanted in self.config.protocol:
            protocol = get_protocol(wanted)
            for budget in self.config.budgets:
                starts = self.study.finetune_seeds if protocol.random_start else 1
                bench = self._with(budget)
                settings = self._settings(wanted, bench.budget, starts, backbone)
                draws = bench.draws
                yield Evaluation(
                    arm=backbone.arm,
                    kind=backbone.kind,
                    seed=backbone.seed,
                    task=self.name,
                    protocol=called_on(self.name, self.config, protocol),
                    budget=budget_name(budget),
                    members=backbone.members,
                    draws=draws,
                    starts=starts,
                    stage=self._stage(backbone, settings, protocol.model_dump(mode="json"), draws),
                )

    def _settings(
        self,
        protocol: str | dict[str, Any],
        budget: Budget,
        starts: int,
        scored: ScoredBackbone,
    ) -> EvaluateConfig:
        config = self.config
        as_in_study = {name: getattr(config, name) for name in LabelledTask.model_fields}
        of_this_stage = {
            "data": config.data.absolute(),
            "shards": config.shards.absolute() if config.shards is not None else None,
            "protocol": [protocol],
            "size": config.size or scored.size,
        }
        return EvaluateConfig(
            **(as_in_study | of_this_stage),
            plugins=self.study.plugins,
            backbone=[f"{_label(scored)}={scored.source}"] if scored.source else [],
            task=[task_name(self.name, config)],
            seeds=scored.members,
            repeats=starts,
            budget=budget.wanted,
            draws=budget.draws,
            baselines=[],
            bootstrap=0,
            figures=False,  # the report draws those it shows
            device=self.study.device,
            precision=self.precision,
            privacy=self.study.privacy,
        )

    def _stage(self, scored: ScoredBackbone, settings: EvaluateConfig, protocol: dict[str, Any], draws: int) -> Stage:
        plain = settings.model_dump(mode="json")
        plugins = plugins_in(self._modules(scored, protocol))
        protocol = settled(protocol, self.precision)
        # Of equal results the names are equal: evaluations computed in float32 before they said so.
        computed = {} if self.precision == "float32" else {"precision": self.precision}
        inputs = {name: plain[name] for name in _SETTINGS} | {
            **computed,
            **({"plugins": plugins} if plugins else {}),
            "protocol": protocol,
            "layout": self.data.layout,
            "data": self.data.fingerprint,
            "shards": Catalog.open(settings.shards).fingerprint if settings.shards is not None else None,
            "backbone": scored.identity if scored.parent is None else None,
        }
        like = fingerprint([self.data.fingerprint, settings.task, protocol, settings.size])
        work = float(scored.members * draws * settings.repeats)
        parents = (scored.parent,) if scored.parent is not None else ()
        return Stage("evaluate", inputs, plain, parents, scored.parent, like, work)

    def metric_modules(self) -> set[str]:
        """The modules that define the metric which the report compares."""
        added = f"{self.task.name}/{self.config.metric}"
        return {METRICS.module_of(added) if added in METRICS else TASKS.module_of(self.task.name)}

    def _modules(self, scored: ScoredBackbone, protocol: dict[str, Any]) -> set[str]:
        """Where the code comes from that may be a plugin's; a pretraining of the study has named its own."""
        tasks = {TASKS.module_of(task.name) for task in self.bench.tasks}
        backbone = modules_behind(scored.source) if scored.source is not None else set()
        return tasks | backbone | {DATASETS.module_of(self.data.layout)} | modules_of(get_protocol(protocol))

    def _scored_rows(self, rows: Ints) -> Ints:
        """Those that carry a label of what is compared."""
        return rows[self.bench.space(self.task).known(self.data.frames)[rows]]

    def _cases(self, rows: Ints) -> tuple[str, ...]:
        return tuple(sorted(set(self.data.frames["case"].to_numpy(str)[rows].tolist())))


_DATA = {"data", "task", "layout", "val", "folds", "split", "fps", "remap", "shards", "phases", "budgets"}
_SETTINGS = ("task", "seeds", "repeats", "size", "fps", "folds", "split", "val", "budget", "draws", "phases")


def _label(scored: ScoredBackbone) -> str:
    """What the predictions call it: the same in every study, because stages are shared."""
    return f"weights-{fingerprint(dict(scored.identity or {}))}"
