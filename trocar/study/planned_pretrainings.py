"""The pretraining stages: one for every arm and seed, with the cases that seed draws.

In which precision the stages of a study compute. It is part of their names, so the plan settles `auto`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trocar.backbones.device import Precision, Wanted, choose_device, resolved
from trocar.backbones.weight_names import absolute, identity
from trocar.core.config import fingerprint, tree_of, validate
from trocar.data.labelled_data import LabelledFolder, LeakConfig
from trocar.data.remote.store import located
from trocar.data.selection.composition import Composition
from trocar.errors import ConfigError
from trocar.leakage.guard import RunGuard, guarding_of
from trocar.privacy.private_data import NO_MARKS
from trocar.slurm.profile import Profile
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain_config import PretrainConfig
from trocar.study.config import ArmConfig, StudyConfig
from trocar.study.stages import Stage
from trocar.study.study_lock import ArmRun, FoundLeak

_SAY = (
    "Stages are named after what they compute in: say precision: bfloat16 for A100, H100 and newer, or float32; "
    "pretrain.set: [train.precision=...] is for pretrainings alone"
)


class PrecisionUnknownError(ConfigError):
    """A plan can't know what `auto` will be. No arm can do without an answer, so none is left out for it."""


def planned(config: PretrainConfig, profile: Profile | None) -> Precision:
    """What a pretraining is named after and told: what the recipe says; for `auto`, float32 where jobs or runs have no
    GPU, and what this machine's GPU has where they run here. `profile`: what the jobs of a cluster ask for.

    Raises PrecisionUnknownError for `auto` on GPUs that aren't here.
    """
    return _planned(config.train.precision, config.run.device, profile, "train.precision", "run.device")


def planned_for_evaluations(study: StudyConfig, profile: Profile | None) -> Precision:
    """The same of the evaluations, by `precision` and `device` of the study."""
    return _planned(study.precision, study.device, profile, "precision", "device")


def _planned(wanted: Wanted, device: str, profile: Profile | None, setting: str, option: str) -> Precision:
    if wanted != "auto":
        return wanted
    if device == "cpu" or (profile is not None and not profile.asks_for_gpus):
        return "float32"
    if profile is not None and profile.cluster == "slurm":
        raise PrecisionUnknownError(
            f"{setting}: auto depends on the GPUs that the jobs get, and a plan can't see those. {_SAY}"
        )
    try:
        here = choose_device(device, option)
    except ConfigError as error:
        raise PrecisionUnknownError(f"{setting}: auto can't be settled here: {error}. {_SAY}") from None
    return resolved("auto", torch.device(here), setting)


def settled(settings: Any, precision: Precision) -> Any:
    """A protocol's settings as JSON values, with what its own `precision: auto` stands for, at any depth."""
    if isinstance(settings, list):
        return [settled(value, precision) for value in settings]
    if not isinstance(settings, dict):
        return settings
    return {
        key: precision if key == "precision" and value == "auto" else settled(value, precision)
        for key, value in settings.items()
    }


NOT_HERE = "set by the study"
_OWN = ("data.catalog", "data.composition", "run.out", "run.seed")


Run = tuple[ArmRun, Stage]


@dataclass(frozen=True)
class Pretrainings:
    """All pretrainings of a study, and their stages by name. `short`: arms that can't be, such as those that the
    catalog can't fill -> why.
    """

    runs: tuple[ArmRun, ...]
    stages: Mapping[str, Stage]
    short: dict[str, str]


def plan_arms(study: StudyConfig, guard: RunGuard, profile: Profile | None = None) -> Pretrainings:
    """The pretrainings of every arm and seed. `profile`: of the jobs that are to run them.

    Raises ConfigError where they would run in a precision that can't be known.
    """
    found: list[Run] = []
    short: dict[str, str] = {}
    for name, arm in study.all_arms().items():
        try:
            for seed in range(study.pretrain_seeds):
                found += plan_runs(study, name, arm, seed, guard, profile)
        except PrecisionUnknownError:
            raise
        except ConfigError as error:
            short[name] = str(error)
    return Pretrainings(tuple(run for run, _ in found), {stage.name: stage for _, stage in found}, short)


def plan_runs(
    study: StudyConfig, name: str, arm: ArmConfig, seed: int, guard: RunGuard, profile: Profile | None = None
) -> list[Run]:
    """The pretrainings of one arm with one seed: one for all tasks, or one for each set of tasks that leave the same
    out. Raises ConfigError for a recipe or composition that can't be.
    """
    found: dict[str, Run] = {}
    for tasks in task_sets(study):
        config = _config(study, name, arm, seed, tasks)
        run, stage = _plan_run(config, name, seed, tasks, guard, profile)
        if stage.name in found:  # what they leave out is not in this pool, or was not drawn from it
            run = _joined(found[stage.name][0], run)
            stage = found[stage.name][1]
        found[stage.name] = run, stage
    return list(found.values())


def task_sets(study: StudyConfig) -> list[tuple[str, ...]]:
    """The tasks that one pretraining serves."""
    if study.leave_out == "all":
        return [tuple(study.tasks)]
    found: dict[LabelledFolder, list[str]] = {}
    for name, task in study.tasks.items():
        found.setdefault(task.data_alone(), []).append(name)
    return [tuple(names) for names in found.values()]


def _joined(one: ArmRun, other: ArmRun) -> ArmRun:
    leaks = (*one.leaks, *(leak for leak in other.leaks if leak not in one.leaks))
    notes = tuple(dict.fromkeys((*one.notes, *other.notes)))
    return one.model_copy(update={"tasks": (*one.tasks, *other.tasks), "leaks": leaks, "notes": notes})


def _plan_run(
    asked: PretrainConfig, name: str, seed: int, tasks: tuple[str, ...], guard: RunGuard, profile: Profile | None
) -> Run:
    config = asked.computing_in(planned(asked, profile))
    # The scored cases of a run's probes leave its pool too; other runs have no part in that.
    own = RunGuard(probed=config.probe, chooser=config.chooser) if config.probe else guard
    setup = Pretraining(config, World(), lambda _: None, own)
    selection, steps, stage = setup.selection, setup.total, _stage(setup)
    run = ArmRun(
        arm=name,
        seed=seed,
        tasks=tasks,
        stage=stage.name,
        asked=fingerprint([asked.recipe(), _without_marks(asked.data.composition), _decoder(asked)]),
        selection=selection.fingerprint,
        cases=selection.cases,
        frames=len(selection),
        steps=steps,
        samples=steps * config.train.batch,
        epochs=setup.plan.epochs(steps),
        notes=selection.notes,
        leaks=tuple(FoundLeak.model_validate(leak, strict=False) for leak in guarding_of(selection).records()),
        init=absolute(config.backbone.name),
        size=next(iter(setup.method_config.recipe().groups.values())).size,
        precision=config.train.precision,
    )
    return run, stage


def _config(study: StudyConfig, name: str, arm: ArmConfig, seed: int, tasks: tuple[str, ...]) -> PretrainConfig:
    source = f"{study.pretrain.recipe} for arm {name}"
    tree = tree_of(study.pretrain.recipe, [*study.pretrain.set, *arm.set])
    _check_own([*study.pretrain.set, *arm.set], source)
    total = seed + arm.seed
    changes = {"sample_seed": arm.sample_seed + total, "leak": guard_of(study, arm, tasks)}
    composition = arm.composition.model_copy(update=changes)
    data, run = _section(tree, "data"), _section(tree, "run")
    tree["data"] = data | {
        "catalog": located(study.catalog),
        "composition": composition.model_dump(mode="json"),
    }
    tree["run"] = run | {"out": NOT_HERE, "seed": total, "device": run.get("device", study.device)}
    train = _section(tree, "train")
    tree["train"] = _matched(study, train | {"precision": _precision(study, train)}, source)
    tree["plugins"] = list(dict.fromkeys([*(tree.get("plugins") or []), *study.plugins]))
    tree["privacy"] = study.privacy.model_dump(mode="json")
    tree["tracking"] = {"uri": "none"}  # the study syncs it when it has ended
    return validate(PretrainConfig, tree, source)


def guard_of(study: StudyConfig, arm: ArmConfig, tasks: Iterable[str]) -> LeakConfig:
    """What must stay out of the arm's pool: its own list, and the test and validation cases of these tasks."""
    guarded = dict.fromkeys(study.tasks[task].data_alone() for task in tasks)
    against = [*arm.leak.against, *guarded]
    return LeakConfig(against=against, policy=study.leak, suspects=arm.leak.suspects)


def _check_own(overrides: list[str], source: str) -> None:
    """What the study sets itself can't be set by an override; in the recipe's file it is only a default."""
    for override in overrides:
        key = override.partition("=")[0]
        if any(key == own or key.startswith(f"{own}.") for own in _OWN):
            raise ConfigError(f"{source}: override {override!r}: the study sets {key} itself")


def _precision(study: StudyConfig, train: Mapping[str, Any]) -> Any:
    said = train.get("precision", "auto")
    return study.precision if said == "auto" else said


def _matched(study: StudyConfig, train: dict[str, Any], source: str) -> dict[str, Any]:
    """The length in the unit that is matched."""
    stated = getattr(study.pretrain, study.match)
    other = "epochs" if study.match == "steps" else "steps"
    if stated is None and train.get(study.match) is None:
        raise ConfigError(
            f"{source}: match is {study.match}, but the recipe has no train.{study.match}; give pretrain.{study.match}"
        )
    if stated is None and train.get(other) is not None:
        raise ConfigError(f"{source}: the recipe has train.steps and train.epochs; set one of them to null")
    return {**train, study.match: stated if stated is not None else train[study.match], other: None}


def _stage(setup: Pretraining) -> Stage:
    config = setup.config
    recipe: dict[str, Any] = config.recipe()
    recipe["method"] = setup.method_config.model_dump(mode="json", by_alias=True)
    recipe["train"] = recipe["train"] | {"steps": setup.total, "epochs": None}
    # By content and not by name: the same weights may lie elsewhere, and others under the same name.
    weights = {"backbone": identity(config.backbone.name)}
    recipe["backbone"] = {key: value for key, value in recipe["backbone"].items() if key != "name"}
    teacher = recipe["method"].get("teacher")
    if isinstance(teacher, dict) and "name" in teacher:
        weights["teacher"] = identity(teacher["name"])
        recipe["method"]["teacher"] = {key: value for key, value in teacher.items() if key != "name"}
    neighbours = setup.neighbours.identity() if setup.neighbours is not None else None
    inputs = {
        "recipe": recipe,
        "weights": weights,
        "selection": setup.selection.fingerprint,
        "backend": _decoder(config),
        "neighbours": neighbours,
        **({"plugins": setup.plugins} if setup.plugins else {}),
    }
    tree = config.model_dump(mode="json", by_alias=True)
    tree["backbone"]["name"] = absolute(config.backbone.name)
    like = fingerprint([recipe["backbone"], recipe["method"], weights, config.train.batch, config.train.precision])
    return Stage("pretrain", inputs, tree, like=like, work=float(setup.total * config.train.batch))


def _decoder(config: PretrainConfig) -> str | list[str | float]:
    """What turns a frame into pixels: the backend as it is asked for, and where a JPEG engine takes part, its share."""
    backend, load = config.data.backend, config.data.hw_decoder_load
    return backend if backend == "torch" or load == 0 else [backend, load]


def _without_marks(composition: Composition) -> dict[str, Any]:
    """What is private of the data that a composition leaves out changes no result, so no hash either."""
    tree = composition.model_dump(mode="json")
    for entry in tree["leak"]["against"]:
        if isinstance(entry, dict):
            entry["private"] = NO_MARKS.model_dump(mode="json")
    return tree


def _section(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = tree.get(name)
    return dict(section) if isinstance(section, dict) else {}
