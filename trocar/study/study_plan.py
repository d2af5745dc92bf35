"""What a study expands to: its pretrainings, its evaluations, and the report, each a stage with a name of its own.

`make_plan` looks everything up, `make_lock` is what of it is written down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from trocar import __version__
from trocar.backbones.weight_names import absolute, identity, is_random, random_name
from trocar.core.config import fingerprint
from trocar.core.plugins import plugins_in
from trocar.data.catalog.catalog import Catalog
from trocar.errors import ConfigError
from trocar.leakage.guard import RunGuard
from trocar.slurm.profile import Profile
from trocar.study.config import INIT, RANDOM, StudyConfig, labels_of
from trocar.study.planned_evaluations import Evaluation, ScoredBackbone, TaskPlan
from trocar.study.planned_pretrainings import Pretrainings, plan_arms, planned_for_evaluations
from trocar.study.stages import STAGE_VERSION, Stage
from trocar.study.study_lock import FORMAT, ArmRun, LockedStage, LockedWeights, StudyLock


@dataclass(frozen=True)
class StudyPlan:
    """A study with its data looked up. `trained`: the stages of `runs`, by name. `left_out`: arms that the catalog
    can't fill -> why. `shared`: what one pretraining for all tasks would be, where each task has its own.
    """

    study: StudyConfig
    catalog: str
    runs: tuple[ArmRun, ...]
    trained: Mapping[str, Stage]
    init_of: dict[str, str]
    tasks: tuple[TaskPlan, ...]
    evaluations: tuple[Evaluation, ...]
    left_out: dict[str, str]
    shared: Pretrainings | None = None

    @cached_property
    def contrasts(self) -> list[tuple[str, str]]:
        """The declared ones, or each arm against its init. Raises ConfigError for an arm that is left out."""
        declared = self.study.contrasts
        if declared is None:
            return [(arm, init) for arm, init in self.init_of.items()] if self.study.baselines.init else []
        known = {evaluation.arm for evaluation in self.evaluations}
        for pair in declared:
            for name in pair:
                if name not in known:
                    why = self.left_out.get(name, f"there are {', '.join(sorted(known))}")
                    raise ConfigError(f"contrasts: {name!r} is not in the study: {why}")
        return list(declared)

    @cached_property
    def report(self) -> Stage:
        """The last stage."""
        where = [(e.arm, e.seed, e.task, e.protocol, e.budget, e.stage.name) for e in self.evaluations]
        plugins = plugins_in(module for task in self.tasks for module in task.metric_modules())
        metrics = {task.name: [task.config.metric, task.scored()] for task in self.tasks}
        inputs: dict[str, Any] = {
            "study": self.study.name,
            "places": where,
            "contrasts": self.contrasts,
            "metrics": metrics,
            "unavailable": {**self.study.unavailable, **self.left_out},
            **({"plugins": plugins} if plugins else {}),
        }
        parents = tuple(sorted({evaluation.stage.name for evaluation in self.evaluations}))
        return Stage("report", inputs, self.study.model_dump(mode="json"), parents)

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """Every stage once, by name, each behind those it depends on."""
        found = dict(self.trained)
        found |= {evaluation.stage.name: evaluation.stage for evaluation in self.evaluations}
        return found | {self.report.name: self.report}

    @cached_property
    def plugins(self) -> dict[str, dict[str, str]]:
        """The plugins that take part in its stages: package -> what `plugins_in` says of it."""
        found = {package: about for s in self.stages.values() for package, about in s.inputs.get("plugins", {}).items()}
        return dict(sorted(found.items()))

    @cached_property
    def labels(self) -> dict[str, str]:
        """Stage -> what it is in this study, in words; the first of several places."""
        found = {self.report.name: f"report of {self.study.name}"}
        for run in self.runs:
            for_tasks = f", for {', '.join(run.tasks)}" if len(run.tasks) < len(self.tasks) else ""
            found.setdefault(run.stage, f"{run.arm}, seed {run.seed}{for_tasks}")
        for e in self.evaluations:
            seed = f", seed {e.seed}" if e.seed is not None else ""
            found.setdefault(e.stage.name, f"{e.arm}{seed}: {e.task}, {e.protocol}, {labels_of(e.budget)}")
        return found


def make_plan(study: StudyConfig, profile: Profile | None = None) -> StudyPlan:
    """Look up all data of a study and expand it, for jobs of `profile` or for this machine.

    Raises ConfigError for anything that can't be, before any work.
    """
    catalog = Catalog.open(study.catalog)
    guard = RunGuard()
    found = plan_arms(study, guard, profile)
    for name, why in found.short.items():
        if study.all_arms()[name].on_short != "skip" or study.leak == "error":
            raise ConfigError(f"arm {name}: {why}")
    if not found.runs:
        reasons = "; ".join(f"{arm}: {why}" for arm, why in found.short.items())
        raise ConfigError(f"study {study.name}: the catalog can't fill any arm ({reasons})")
    runs = found.runs
    precision = planned_for_evaluations(study, profile)
    tasks = tuple(TaskPlan(study, name, precision) for name in study.tasks)
    for task in tasks:
        task.check()
    inits, init_of = _inits(study, runs)
    pretrained = (ScoredBackbone(r.arm, "pretrained", r.seed, parent=r.stage, tasks=r.tasks) for r in runs)
    backbones = [*pretrained, *inits, *_random(study, runs, inits), *_named(study)]
    evaluations = tuple(
        e
        for backbone in backbones
        for task in tasks
        if backbone.tasks is None or task.name in backbone.tasks
        for e in task.evaluations(backbone)
    )
    together = study.model_copy(update={"leave_out": "all"})
    shared = plan_arms(together, guard, profile) if study.leave_out == "task" else None
    return StudyPlan(study, catalog.fingerprint, runs, found.stages, init_of, tasks, evaluations, found.short, shared)


def make_lock(plan: StudyPlan) -> StudyLock:
    """The lock of a plan. Raises ConfigError for budgets, contrasts and cases of tasks that cannot be."""
    study = plan.study
    sources = sorted({run.init for run in plan.runs} | set(study.baselines.backbones.values()))
    return StudyLock(
        format=FORMAT,
        trocar=__version__,
        study=study,
        versions=dict(STAGE_VERSION),
        plugins=plan.plugins,
        catalog=plan.catalog,
        weights={source: LockedWeights.model_validate(identity(source), strict=False) for source in sources},
        runs=plan.runs,
        init_of=plan.init_of,
        tasks={task.name: task.locked() for task in plan.tasks},
        evaluations=tuple(evaluation.locked() for evaluation in plan.evaluations),
        contrasts=tuple(plan.contrasts),
        left_out=plan.left_out,
        report=plan.report.name,
        stages={
            name: LockedStage(
                kind=stage.kind, parents=stage.parents, label=plan.labels[name], like=stage.like, work=stage.work
            )
            for name, stage in plan.stages.items()
        },
    )


def _inits(study: StudyConfig, runs: tuple[ArmRun, ...]) -> tuple[list[ScoredBackbone], dict[str, str]]:
    """The weights that pretrainings began from, each once; and which of them is that of each arm."""
    found: dict[str, ScoredBackbone] = {}
    keys = {run.arm: fingerprint([identity(run.init), run.size]) for run in runs}
    for run in runs:
        key = keys[run.arm]
        if key not in found:
            name = INIT if len(set(keys.values())) == 1 else f"{INIT} {run.arm}"
            found[key] = _given(name, INIT, run.init, study.pretrain_seeds, run.size)
    init_of = {arm: found[key].arm for arm, key in keys.items()}
    return (list(found.values()) if study.baselines.init else []), init_of


def _random(study: StudyConfig, runs: tuple[ArmRun, ...], inits: list[ScoredBackbone]) -> Iterator[ScoredBackbone]:
    """Random weights of every architecture; none where the init is random already."""
    if not study.baselines.random:
        return
    known = {(str(init.source), init.size) for init in inits if init.source and is_random(init.source)}
    known = {(random_name(source), size) for source, size in known}
    wanted = dict.fromkeys((random_name(run.init), run.size) for run in runs)
    count = Counter(source for source, _ in wanted)
    for source, size in wanted:
        if (source, size) not in known:
            more = f" {source.removeprefix('random:')}" if len(count) > 1 else ""
            more += f" {size}" if count[source] > 1 else ""
            yield _given(RANDOM + more, RANDOM, source, study.pretrain_seeds, size)


def _named(study: StudyConfig) -> Iterator[ScoredBackbone]:
    for label, source in study.baselines.backbones.items():
        try:
            yield _given(label, "backbone", source, study.pretrain_seeds, None)
        except ConfigError as error:
            raise ConfigError(f"baselines.backbones.{label}: {error}") from None


def _given(arm: str, kind: str, source: str, seeds: int, size: int | None) -> ScoredBackbone:
    source = absolute(source)
    members = seeds if is_random(source) else 1
    return ScoredBackbone(arm, kind, source=source, identity=identity(source), members=members, size=size)
