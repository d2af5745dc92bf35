"""study.lock: what a study expanded to, and on which data, down to the cases of every arm and draw.

The lock is what a study is read back from: `study status`, the report and mlflow need no data to be opened again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trocar import __version__
from trocar.core.files import write_json_atomic
from trocar.core.plugins import plugin_changes
from trocar.errors import ConfigError, TrocarError
from trocar.study.plan.expand import StudyPlan
from trocar.study.results.weight_identity import identity
from trocar.study.run.stage_store import Store
from trocar.study.run.stages import STAGE_VERSION

NAME = "study.lock"
FORMAT = 5

Tree = dict[str, Any]


def make_lock(plan: StudyPlan) -> Tree:
    """The lock of a plan, as JSON values."""
    study = plan.study
    sources = sorted({run.init for run in plan.runs} | set(study.baselines.backbones.values()))
    return _plain(
        {
            "format": FORMAT,
            "trocar": __version__,
            "study": study.model_dump(mode="json"),
            "versions": dict(STAGE_VERSION),
            "plugins": plan.plugins,
            "catalog": plan.catalog,
            "weights": {source: identity(source) for source in sources},
            "runs": [run.to_json() for run in plan.runs],
            "init_of": plan.init_of,
            "tasks": {task.name: task.to_json() for task in plan.tasks},
            "evaluations": [evaluation.to_json() for evaluation in plan.evaluations],
            "contrasts": plan.contrasts,
            "left_out": plan.left_out,
            "report": plan.report.name,
            "stages": {
                name: {
                    "kind": stage.kind,
                    "parents": list(stage.parents),
                    "label": plan.labels[name],
                    "like": stage.like,
                    "work": stage.work,
                }
                for name, stage in plan.stages.items()
            },
        }
    )


def path_of(store: Store, study: str) -> Path:
    """Where the lock of a study lies."""
    return store.study(study) / NAME


def write_lock(store: Store, lock: Tree) -> Path:
    """Write it; returns its path."""
    path = path_of(store, lock["study"]["name"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, lock)
    return path


def read_lock(store: Store, study: str) -> Tree | None:
    """The lock of a study, None if it was never planned. Raises TrocarError for a damaged or foreign one."""
    path = path_of(store, study)
    try:
        lock: Tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise TrocarError(f"{path} is damaged ({error}); delete it and plan the study again") from None
    if lock.get("format") != FORMAT:
        raise TrocarError(f"{path} has format {lock.get('format')}, this is {FORMAT}; delete it and plan again")
    return lock


def require_lock(store: Store, study: str) -> Tree:
    """The lock. Raises ConfigError where there is none."""
    lock = read_lock(store, study)
    if lock is None:
        raise ConfigError(f"study {study} has not been planned in {store.root}: run `trocar study plan` first")
    return lock


def drift(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two locks although the study file asks for the same: data that came, went or changed,
    other weights under a name, an edited plugin, raised stage versions. One line each; empty if nothing does.
    """
    plugins = plugin_changes(old["plugins"], new["plugins"])
    return [*_versions(old, new), *plugins, *_runs(old, new), *_tasks(old, new), *_weights(old, new)]


def edits(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys of the study file that were edited between two locks."""
    before, after = old["study"], new["study"]
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def _versions(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for kind, version in new["versions"].items():
        before = old["versions"].get(kind)
        if before != version:
            count = sum(stage["kind"] == kind for stage in new["stages"].values())
            yield f"stage version of {kind}: {before} -> {version}; its {count} stages are computed again"


def _runs(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    before = {(run["arm"], run["seed"], run["asked"]): run for run in old["runs"]}
    for run in new["runs"]:
        known = before.get((run["arm"], run["seed"], run["asked"]))
        if known is not None and known["selection"] != run["selection"]:
            yield f"arm {run['arm']}, seed {run['seed']}: {_cases(known['cases'], run['cases'])}"
        if known is not None and known["precision"] != run["precision"]:
            yield (
                f"arm {run['arm']}, seed {run['seed']}: train.precision: auto was {known['precision']} and is "
                f"{run['precision']} on this machine or profile; pretrain.set: [train.precision={known['precision']}] "
                f"keeps it"
            )


def _tasks(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name, task in new["tasks"].items():
        known = old["tasks"].get(name)
        if known is not None and known["precision"] != task["precision"] and _same(old, new, "precision", "device"):
            yield (
                f"task {name}: precision: auto was {known['precision']} and is {task['precision']} on this machine or "
                f"profile; precision: {known['precision']} keeps it"
            )
        if known is not None and known["asked"] == task["asked"] and known["data"] != task["data"]:
            tested = [sorted({case for fold in t["test_cases"].values() for case in fold}) for t in (known, task)]
            yield f"task {name}: its labels have changed; test cases: {_cases(*tested)}"


def _same(old: Mapping[str, Any], new: Mapping[str, Any], *keys: str) -> bool:
    return all(old["study"][key] == new["study"][key] for key in keys)


def _weights(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for source, found in new["weights"].items():
        if old["weights"].get(source, found) != found:
            yield f"backbone {source}: other weights than before"


def _cases(before: list[str], after: list[str]) -> str:
    come, gone = sorted(set(after) - set(before)), sorted(set(before) - set(after))
    if not come and not gone:
        return "the same cases with other frames"
    parts = [f"{len(names)} {word} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
             for names, word in ((come, "new"), (gone, "gone")) if names]  # fmt: skip
    return f"{len(after)} cases, {' and '.join(parts)}"


def _plain(tree: Tree) -> Tree:
    """Tuples as lists, so that a lock equals what is read back."""
    plain: Tree = json.loads(json.dumps(tree))
    return plain
