"""A whole study: make its data, plan, lock, run everything that is missing, bring mlflow up to it.

Making the data may take hours, so that only `study run` and `study plan --prepare` do it.

In mlflow it is one experiment, a run per arm, and below it a run per stage, synced from the local record. Only the
program that runs the study speaks to mlflow, after the stages: it may be away without anything being lost.
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from trocar.backbones.export import public_config
from trocar.core.files import write_json_atomic
from trocar.core.messages import Say
from trocar.data.catalog.catalog import FOLDER
from trocar.errors import ConfigError, TrocarError
from trocar.leakage.exposure import RecordedHistory
from trocar.privacy.aliases import Aliases, withhold
from trocar.runs.mlflow_server import Placement, client_of, resolve_uri
from trocar.runs.mlflow_sync import sync
from trocar.runs.run_folder import Run, read_metrics
from trocar.slurm.profile import Profile
from trocar.study.config import ALL, StudyConfig, labels_of
from trocar.study.results import open_study_book, private_of_study
from trocar.study.stage_executors import LocalExecutor, SlurmExecutor, StageExecutor, run_stages
from trocar.study.stages import Kind, Store
from trocar.study.study_lock import ArmRun, LockedEvaluation, StudyLock, drift, edits, read_lock, write_lock
from trocar.study.study_plan import StudyPlan, make_lock, make_plan

Answering = Callable[[Callable[[int], object]], AbstractContextManager[None]]
"""Within, signals that this process receives go to the function it was given: the command line installs handlers."""


def run_prepare(commands: list[str], say: Say) -> None:
    """The trocar commands that make the data; `say` is told each. Raises TrocarError for the first that fails."""
    for command in commands:
        say(f"$ trocar {command}")
        code = subprocess.run([sys.executable, "-m", "trocar", *shlex.split(command)], check=False).returncode
        if code in (130, -signal.SIGINT):
            raise KeyboardInterrupt
        if code:
            raise TrocarError(f"prepare: `trocar {command}` ended with exit code {code}; its message is above")


def require_prepared(study: StudyConfig) -> str:
    """What was not run, in a line, '' where the study has nothing to prepare.

    Raises ConfigError that lists the commands if the catalog or a task's data are not there.
    """
    if not study.prepare:
        return ""
    gone = [str(path) for path in _needed(study) if not path.exists()]
    if not gone:
        listed = "; ".join(f"trocar {command}" for command in study.prepare)
        return f"planned on the data that are there; `study run` and --prepare run first: {listed}"
    listed = "\n".join(f"  trocar {command}" for command in study.prepare)
    raise ConfigError(
        f"study {study.name}: the data are not there yet ({', '.join(gone)}). The study makes them with\n{listed}\n"
        "`trocar study plan --prepare` runs that now and then plans; `trocar study run` does it too"
    )


def _needed(study: StudyConfig) -> list[Path]:
    """The catalog, which is written last, and the folders of labels; each once."""
    own = [study.catalog / FOLDER] if isinstance(study.catalog, Path) else []
    return list(dict.fromkeys([*own, *(task.data for task in study.tasks.values())]))


def lock_plan(plan: StudyPlan, store: Store, update: bool, say: Say) -> StudyLock:
    """The lock of the plan, written.

    Raises ConfigError, with what changed, for a plan on other data, versions or plugins than were locked, unless
    `update` accepts them.
    """
    new, old = make_lock(plan), read_lock(store, plan.study.name)
    if old is not None:
        changes, keys = drift(old, new), edits(old, new)
        listed = "\n".join(f"  {line}" for line in changes)
        if changes and not update:
            raise ConfigError(
                f"study {plan.study.name} was planned on other data, versions or plugins:\n{listed}\n"
                "`trocar study plan --update` accepts that; results of the old plan stay in the store"
            )
        if changes:
            say(f"accepted, compared with the last plan:\n{listed}")
        if keys:
            say(f"the study file has been edited since the last plan: {', '.join(keys)}")
    path = write_lock(store, new)
    say(f"locked in {path}")
    return new


def run_whole(
    study: StudyConfig,
    say: Say,
    *,
    jobs: int = 1,
    profile: Profile | None = None,
    uri: str | None = None,
    update: bool = False,
    called: str = "",
    answering: Answering = lambda stop: nullcontext(),
) -> Path:
    """Run everything that is missing; returns the folder of the report.

    Stages are processes of this machine, `jobs` at a time, or with a `profile` jobs of SLURM, which go on when this has
    returned. `called` is what the command line calls the study. Results go to mlflow at `uri` (None: as in `trocar
    track sync`; "none": nowhere). Raises ConfigError for a plan that cannot be or has changed, TrocarError with what
    failed when all that could run has run.
    """
    store = Store(study.store)
    run_prepare(study.prepare, say)
    plan = make_plan(study, profile)
    lock = lock_plan(plan, store, update, say)
    told = open_study_book(lock, store).saying(say)
    executor: StageExecutor
    if profile is not None:
        executor = SlurmExecutor(store, study.name, profile, study.threads, study.keep)
    else:
        executor = LocalExecutor(store, jobs, labels=plan.labels, threads=study.threads, keep=study.keep, say=told)
    try:
        with answering(executor.stop):
            ended = run_stages(executor, plan.stages)
    finally:
        if uri != "none":
            sync_study(lock, store, told, uri)
    if ended.failed:
        raise TrocarError(
            f"{len(ended.failed)} stages failed, {len(ended.blocked)} wait for them; the same command tries again. "
            f"`trocar study report {called or study.name}` writes a report of what is done"
        )
    return store.out(plan.report.name)


MARK = "mlflow_artifacts.json"
REPORT = "report"

Place = ArmRun | LockedEvaluation
"""Where a stage stands in the study."""


def sync_study(lock: StudyLock, store: Store, say: Say, uri: str | None = None) -> bool:
    """Bring mlflow up to all finished stages; doing it again logs nothing twice. False if it could not be done: `say`
    is told why, and nothing is raised, because tracking never stops a study.
    """
    try:
        _sync(lock, store, uri)
    except TrocarError as error:
        say(f"mlflow: {error}")
    except Exception as error:
        say(f"mlflow: {type(error).__name__}: {error}; `trocar track sync {store.study(lock.study.name)}` later")
    else:
        return True
    return False


def _sync(lock: StudyLock, store: Store, uri: str | None) -> None:
    name = lock.study.name
    uri = resolve_uri(store.study(name), uri)
    hidden = private_of_study(lock, store).hidden
    experiment = hidden.text(name)
    arms = dict.fromkeys(place.arm for place in _places(lock))
    parents = {arm: _parent(lock, store, arm, uri, hidden) for arm in arms}
    stages: dict[str, Place] = {}
    for place in _places(lock):
        stages.setdefault(place.stage, place)  # a stage that two arms share stands below the first
    for stage, place in stages.items():
        if store.is_done(stage):
            locked = lock.stages[stage]
            called = Placement(locked.label, parents[place.arm], labels=labels(locked.kind, place))
            run_id = sync(store.out(stage), uri, experiment, _hiding(called, hidden)).mlflow_run_id
            if locked.kind == "pretrain":
                _log_backbone(store.out(stage), uri, run_id, hidden.text(f"{name}-{place.arm}"), hidden)
    _sync_report(lock, store, uri, experiment, hidden)


def labels(kind: Kind, place: Place) -> dict[str, str]:
    """The tags of a stage's run: what a table in mlflow is filtered and grouped by."""
    found = {name: getattr(place, name, None) for name in ("arm", "kind", "seed", "task", "protocol", "budget")}
    if isinstance(place, ArmRun):
        found["task"] = ", ".join(place.tasks)
    known = {name: str(value) for name, value in found.items() if value is not None}
    return {"kind": "pretrained", **known, "stage": place.stage, "stage_kind": kind}


def _hiding(called: Placement, hidden: Aliases) -> Placement:
    return Placement(hidden.text(called.name), called.parent, labels=called.labels, hidden=hidden)


def _places(lock: StudyLock) -> tuple[Place, ...]:
    """The place in the study of every pretraining and evaluation."""
    return (*lock.runs, *lock.evaluations)


def _parent(lock: StudyLock, store: Store, arm: str, uri: str, hidden: Aliases) -> str:
    """The run of an arm: its composition, and its scores as means over what is done, one column a task."""
    name = lock.study.name
    folder = store.study(name) / "arms" / arm
    scored = [place for place in lock.evaluations if place.arm == arm]
    done = [place for place in scored if store.is_done(place.stage)]
    known = read_metrics(folder)[-1:] if (folder / "run.json").is_file() else []
    # A result more is a step more: mlflow keeps the first value of a step.
    if not known or known[0]["step"] < len(done):
        with Run.open(folder, composition(lock, arm)) as run:
            run.log(len(done), means(lock, store, done))
    withhold(folder, hidden.names, hidden.cases, hidden.table)
    kind = next((place.kind for place in scored), "pretrained")
    shown = {"arm": arm, "kind": kind, "stage_kind": "arm", "done": f"{len(done)} of {len(scored)} evaluations"}
    return sync(folder, uri, hidden.text(name), _hiding(Placement(arm, labels=shown), hidden)).mlflow_run_id


def composition(lock: StudyLock, arm: str) -> dict[str, Any]:
    """What an arm was trained on, over all its seeds: one param each, however many stages there are."""
    runs = [run for run in lock.runs if run.arm == arm]
    if not runs:
        return {"arm": arm}
    sources = dict.fromkeys(source for run in runs for source in run.epochs)
    return {
        "arm": arm,
        "seeds": len({run.seed for run in runs}),
        "tasks": ", ".join(dict.fromkeys(task for run in runs for task in run.tasks)),
        "cases": _range(len(run.cases) for run in runs),
        "frames": _range(run.frames for run in runs),
        "steps": _range(run.steps for run in runs),
        "epochs": {source: _range(round(run.epochs.get(source, 0.0), 2) for run in runs) for source in sources},
        "init": runs[0].init,
    }


def _range(values: Iterable[float]) -> str:
    found = sorted(values)
    return f"{found[0]}" if found[0] == found[-1] else f"{found[0]} to {found[-1]}"


def means(lock: StudyLock, store: Store, done: Sequence[LockedEvaluation]) -> dict[str, float]:
    """`task/protocol/metric`, with the share of labels where it is not all of them -> the mean over what is done.

    The metric is the study's, or the headline of the task where results.json lacks that.
    """
    found: dict[str, list[float]] = {}
    for place in done:
        task = lock.tasks[place.task]
        budget = [] if place.budget == ALL else [labels_of(place.budget).replace("%", " percent")]
        results = json.loads((store.out(place.stage) / "results.json").read_text(encoding="utf-8"))
        for row in (row for row in results["rows"] if row["task"] == task.task):
            metric = task.metric if task.metric in row["metrics"] else str(row.get("headline"))
            value = row["metrics"].get(metric, {}).get("mean")
            if value is not None:
                key = "/".join([place.task, place.protocol, *budget, metric.replace("@", "_")])
                found.setdefault(key, []).append(value)
    return {key: sum(values) / len(values) for key, values in found.items()}


def _sync_report(lock: StudyLock, store: Store, uri: str, experiment: str, hidden: Aliases) -> None:
    """The page with all comparisons, and its table, as a run of their own."""
    stage = lock.report
    if not store.is_done(stage):
        return
    out = store.out(stage)
    if not (out / "run.json").is_file():
        with Run.open(out, {"study": lock.study.name}) as run:
            run.log(0, {"evaluations": len(lock.evaluations)})
    called = Placement(lock.stages[stage].label, labels={"stage": stage, "stage_kind": REPORT})
    sync(out, uri, experiment, _hiding(called, hidden))


def _log_backbone(out: Path, uri: str, run_id: str, model: str, hidden: Aliases) -> None:
    """The weights of a pretraining, once per mlflow run, and as a version of a registered model."""
    done = _marks(out)
    if run_id in done:
        return
    client, backbone = client_of(uri), out / "backbone"
    for path in sorted(file for file in backbone.rglob("*") if file.is_file()):
        folder = path.parent.relative_to(out).as_posix()
        if path.name == "config.json":
            client.log_text(run_id, public_config(path, hidden, RecordedHistory()), f"{folder}/{path.name}")
        elif path.suffix != ".md":  # the card is among the files that every run has
            client.log_artifact(run_id, str(path), artifact_path=folder)
    _register(client, run_id, model)
    write_json_atomic(out / MARK, sorted({*done, run_id}))


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
