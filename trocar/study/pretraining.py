"""The pretraining stages: one for every arm and seed, with the cases that seed draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trocar.config import fingerprint, tree_of, validate
from trocar.data.leak.guard import Guarded, LeakGuard
from trocar.data.selection import Selection
from trocar.errors import ConfigError
from trocar.ssl.distributed import World
from trocar.ssl.pretrain_config import PretrainConfig
from trocar.ssl.setup import Pretraining
from trocar.study.config import ArmConfig, StudyConfig
from trocar.study.stages import Stage
from trocar.study.weights import absolute, identity

NOT_HERE = "set by the study"
_OWN = ("data.catalog", "data.composition", "run.out", "run.seed")


@dataclass(frozen=True)
class ArmRun:
    """One pretraining: `cases` are named source/case, `epochs` is per source, `asked` the hash of what the study says
    about it (the data it finds are `selection`), `leaks` pool cases that are held-out ones, `init` the name of its
    first weights and `size` its main view.
    """

    arm: str
    seed: int
    stage: Stage
    asked: str
    selection: str
    cases: tuple[str, ...]
    frames: int
    steps: int
    samples: int
    epochs: Mapping[str, float]
    notes: tuple[str, ...]
    leaks: tuple[Mapping[str, Any], ...]
    init: str
    size: int

    def to_json(self) -> dict[str, Any]:
        """For the lock: the stage by its name."""
        return {**asdict(self), "stage": self.stage.name, "epochs": dict(self.epochs)}


def plan_run(study: StudyConfig, name: str, arm: ArmConfig, seed: int) -> ArmRun:
    """Resolve one arm with one seed. Raises ConfigError for a recipe or composition that can't be."""
    config = _config(study, name, arm, seed)
    setup = Pretraining(config, World(), lambda _: None)
    selection, steps = setup.selection, setup.total
    samples = steps * config.train.batch
    asked = fingerprint([config.recipe(), config.data.composition.model_dump(mode="json"), config.data.backend])
    return ArmRun(
        arm=name,
        seed=seed,
        stage=_stage(setup, selection),
        asked=asked,
        selection=selection.fingerprint,
        cases=selection.cases,
        frames=len(selection),
        steps=steps,
        samples=samples,
        epochs=setup.plan.epochs(steps),
        notes=selection.notes,
        leaks=tuple(leak.as_json() for leak in selection.leaks),
        init=absolute(config.backbone.name),
        size=next(iter(setup.method_config.recipe().groups.values())).size,
    )


def _config(study: StudyConfig, name: str, arm: ArmConfig, seed: int) -> PretrainConfig:
    source = f"{study.pretrain.recipe} for arm {name}"
    tree = tree_of(study.pretrain.recipe, [*study.pretrain.set, *arm.set])
    _check_own([*study.pretrain.set, *arm.set], source)
    total = seed + arm.seed
    changes = {"sample_seed": arm.sample_seed + total, "leak": guard_of(study, arm)}
    composition = arm.composition.model_copy(update=changes)
    data, run = _section(tree, "data"), _section(tree, "run")
    tree["data"] = data | {
        "catalog": str(study.catalog.absolute()),
        "composition": composition.model_dump(mode="json"),
    }
    tree["run"] = run | {"out": NOT_HERE, "seed": total, "device": run.get("device", study.device)}
    tree["train"] = _matched(study, _section(tree, "train"), source)
    tree["privacy"] = study.privacy.model_dump(mode="json")
    tree["tracking"] = {"uri": "none"}  # the study syncs it when it has ended
    return validate(PretrainConfig, tree, source)


def guard_of(study: StudyConfig, arm: ArmConfig) -> LeakGuard:
    """What must stay out of the arm's pool: its own list, and the test and validation cases of all tasks, so that one
    pretraining serves them all."""
    tasks = [
        Guarded(data=t.data.absolute(), layout=t.layout, split=t.split, private=t.private) for t in study.tasks.values()
    ]
    return LeakGuard(against=[*arm.leak.against, *dict.fromkeys(tasks)], policy=study.leak)


def _check_own(overrides: list[str], source: str) -> None:
    """What the study sets itself can't be set by an override; in the recipe's file it is only a default."""
    for override in overrides:
        key = override.partition("=")[0]
        if any(key == own or key.startswith(f"{own}.") for own in _OWN):
            raise ConfigError(f"{source}: override {override!r}: the study sets {key} itself")


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


def _stage(setup: Pretraining, selection: Selection) -> Stage:
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
        "selection": selection.fingerprint,
        "backend": config.data.backend,
        "neighbours": neighbours,
    }
    tree = config.model_dump(mode="json", by_alias=True)
    tree["backbone"]["name"] = absolute(config.backbone.name)
    like = fingerprint([recipe["backbone"], recipe["method"], weights, config.train.batch, config.train.precision])
    return Stage("pretrain", inputs, tree, like=like, work=float(setup.total * config.train.batch))


def _section(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = tree.get(name)
    return dict(section) if isinstance(section, dict) else {}
