"""A study in mlflow: one experiment, a run per arm, and below it a run per stage, synced from the local record.

Only the program that runs the study speaks to mlflow, after the stages: it may be away without anything being lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trocar.backbones.export import public_config
from trocar.errors import TrocarError
from trocar.files import write_json_atomic
from trocar.privacy import Withheld, withhold
from trocar.study.privacy import private_of_study
from trocar.study.store import Store
from trocar.tracking.mlflow_server import client_of, resolve_uri
from trocar.tracking.mlflow_sync import Placement, sync
from trocar.tracking.run import Run

ARTIFACTS: Mapping[str, tuple[str, ...]] = {
    "pretrain": ("backbone",),
    "evaluate": ("predictions.parquet", "results.json", "results.md"),
}
"""Files and folders of a stage's `out` that mlflow gets."""
TEXTS = ("config.json", "results.json", "results.md")
"""Of these mlflow gets a copy without private names."""
ABOUT_CASES = ("predictions.parquet",)
"""These stay where they are when anything is private: every row is about a frame of a case."""
PARENT = ("tasks", "cases", "frames", "steps", "epochs")
"""What the run of an arm says of each of its pretrainings."""
MARK = "mlflow_artifacts.json"

Say = Callable[[str], None]


def record_scores(out: Path, config: Mapping[str, Any]) -> None:
    """Make the folder of an evaluation a run folder: its settings, and the mean of every metric as step 0."""
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    rows = results["rows"]
    values = {
        (f"{row['task']}_" if len(rows) > 1 else "") + name.replace("@", "_"): metric["mean"]
        for row in rows
        for name, metric in row["metrics"].items()
        if metric["mean"] is not None
    }
    with Run.open(out, config) as run:
        run.log(0, values)


def sync_study(lock: Mapping[str, Any], store: Store, say: Say, uri: str | None = None) -> bool:
    """Bring mlflow up to all finished stages; doing it again logs nothing twice. False if it could not be done: `say`
    is told why, and nothing is raised, because tracking never stops a study.
    """
    try:
        _sync(lock, store, uri)
    except TrocarError as error:
        say(f"mlflow: {error}")
    except Exception as error:
        say(f"mlflow: {type(error).__name__}: {error}; `trocar track sync {store.study(lock['study']['name'])}` later")
    else:
        return True
    return False


def _sync(lock: Mapping[str, Any], store: Store, uri: str | None) -> None:
    name = str(lock["study"]["name"])
    home = store.study(name)
    uri = resolve_uri(home, uri)
    arms = dict.fromkeys(arm for arm, _ in _places(lock))
    hidden = private_of_study(dict(lock), store).hidden
    parents = {arm: _parent(lock, home, arm, uri, hidden) for arm in arms}
    parent_of: dict[str, str] = {}
    for arm, stage in _places(lock):
        parent_of.setdefault(stage, arm)  # a stage that two arms share stands below the first
    for stage, arm in parent_of.items():
        if store.is_done(stage):
            kind, label = lock["stages"][stage]["kind"], lock["stages"][stage]["label"]
            place = Placement(hidden.text(stage), parents[arm], hidden.text(label), hidden)
            run_id = sync(store.out(stage), uri, hidden.text(name), place).mlflow_run_id
            _log_artifacts(store.out(stage), kind, uri, run_id, hidden.text(f"{name}-{arm}"), hidden)


def _places(lock: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(arm, stage) of every pretraining and evaluation."""
    for place in (*lock["runs"], *lock["evaluations"]):
        yield place["arm"], place["stage"]


def _parent(lock: Mapping[str, Any], home: Path, arm: str, uri: str, hidden: Withheld) -> str:
    """The run of an arm: its composition, and what its seeds were trained on."""
    folder = home / "arms" / arm
    runs = [run for run in lock["runs"] if run["arm"] == arm]
    config = {f"seed {run['seed']} {run['stage']}": {key: run[key] for key in PARENT} for run in runs}
    if not (folder / "run.json").is_file():
        with Run.open(folder, config) as run:
            run.log(0, {"seeds": len({run["seed"] for run in runs})})
    withhold(folder, hidden.names)
    return sync(folder, uri, hidden.text(str(lock["study"]["name"])), Placement(arm)).mlflow_run_id


def _log_artifacts(out: Path, kind: str, uri: str, run_id: str, model: str, hidden: Withheld) -> None:
    """Files of a stage, once per mlflow run; a pretraining's backbone also becomes a version of a registered model."""
    done = _marks(out)
    if run_id in done:
        return
    client = client_of(uri)
    for path, folder in _files(out, kind):
        if path.name in TEXTS:
            client.log_text(run_id, _public(path, hidden), f"{folder}{path.name}")
        elif not (hidden and path.name in ABOUT_CASES):
            client.log_artifact(run_id, str(path), artifact_path=folder.rstrip("/") or None)
    if kind == "pretrain":
        _register(client, run_id, model)
    write_json_atomic(out / MARK, sorted({*done, run_id}))


def _files(out: Path, kind: str) -> Iterator[tuple[Path, str]]:
    """The files that mlflow gets of a stage, each with the folder it gets it in: '' or 'name/'."""
    for name in ARTIFACTS[kind]:
        path = out / name
        if path.is_file():
            yield path, ""
        elif path.is_dir():
            for file in sorted(file for file in path.rglob("*") if file.is_file()):
                folder = file.parent.relative_to(out).as_posix()
                yield file, "" if folder == "." else f"{folder}/"


def _public(path: Path, hidden: Withheld) -> str:
    """A file of text without private names."""
    if path.name == "config.json":
        return public_config(path, hidden)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.dumps(hidden.tree(json.loads(text)), indent=1) + "\n"
    return hidden.text(text)


def _register(client: Any, run_id: str, model: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if not any(version.run_id == run_id for version in client.search_model_versions(f"name='{model}'")):
        source = f"{client.get_run(run_id).info.artifact_uri}/backbone"
        client.create_model_version(model, source, run_id)


def _marks(out: Path) -> list[str]:
    try:
        return list(json.loads((out / MARK).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []
