"""Bring mlflow up to the local record of a run; the record never depends on mlflow.

One mlflow run per Trocar run, whatever number of attempts, found again by its tag `trocar.run_id`. A metric
is logged once per step: after a resume mlflow keeps the first value of a repeated step, `metrics/` has the
last one. What has been logged stands in RUN/mlflow_sync.json, per tracking server and without credentials;
when a sync was cut short, or the file is lost, mlflow itself is asked.
"""

from __future__ import annotations

import calendar
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from trocar import __version__
from trocar.core.config import fingerprint
from trocar.core.files import locked, write_json_atomic
from trocar.errors import TrocarError
from trocar.privacy.redaction import redact
from trocar.runs.mlflow_server import (
    PARTS,
    Placement,
    client_of,
    experiment_id,
    log_artifacts,
    quiet_mlflow,
    resolve_uri,
    scrub,
)
from trocar.runs.run_folder import Status, StepRow, read_config, read_record, read_rows, run_status, update_record

STATE = "mlflow_sync.json"
DEFAULT_EXPERIMENT = "trocar"
MLFLOW_STATUS: Mapping[Status, str] = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "killed": "KILLED",
}

# mlflow's own limits (mlflow/utils/validation.py); beyond them a call is refused as a whole.
KEY_LENGTH, PARAM_LENGTH, PARAMS_PER_CALL, METRICS_PER_CALL = 250, 6000, 100, 1000
_BAD_KEY = re.compile(r"[^\w\-. /:]")


@dataclass
class SyncState:
    """What one tracking server already has of a run. `last_step` is per metric name, `artifacts` file -> sha256."""

    mlflow_run_id: str = ""
    config: str = ""
    last_step: dict[str, int] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    in_flight: bool = False


@dataclass(frozen=True)
class SyncResult:
    """The mlflow run, its status, and how many metric values this sync added."""

    mlflow_run_id: str
    status: str
    new_values: int


def sync(
    folder: str | Path,
    tracking_uri: str | None = None,
    experiment: str = DEFAULT_EXPERIMENT,
    placement: Placement | None = None,
) -> SyncResult:
    """Log what mlflow lacks of the run in `folder`: configuration, metrics, status, and files once it has ended.

    The same of its parts (`PARTS`), below it. A second call logs nothing.

    `tracking_uri` defaults as `resolve_uri` says, `placement` to what the folder says. Raises TrocarError, without
    credentials in its message, when the folder is no run or mlflow can't be reached.
    """
    folder = Path(folder).resolve()
    read_record(folder)
    uri = resolve_uri(folder, tracking_uri)
    quiet_mlflow()
    try:
        with locked(folder / ".mlflow_sync.lock"):
            result = _sync(folder, uri, experiment, placement or Placement.of(folder))
            for part in sorted(path.parent for path in (folder / PARTS).glob("*/run.json")):
                below = _sync(part, uri, experiment, Placement.of(part).below(result.mlflow_run_id))
                result = replace(result, new_values=result.new_values + below.new_values)
            return result
    except TrocarError:
        raise
    except Exception as error:  # mlflow lets through what its stores raise: sqlalchemy, requests, OSError
        raise TrocarError(
            f"mlflow at {redact(uri)} can't be brought up to date: {scrub(f'{type(error).__name__}: {error}', uri)}\n"
            f"Nothing is lost, the record is {folder}/metrics; run `trocar track sync {folder}` again"
        ) from None


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested configuration -> mlflow params: dotted keys, values as text (lists as JSON), cut to mlflow's
    limits.
    """
    flat: dict[str, str] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[_key(name)] = text if len(text) <= PARAM_LENGTH else text[: PARAM_LENGTH - 3] + "..."
    return flat


def _sync(folder: Path, uri: str, experiment: str, placement: Placement) -> SyncResult:
    # Status first: what is logged after this reading is left to the next sync, never the other way round.
    record = read_record(folder)
    status = run_status(record)
    rows = read_rows(folder)
    client = client_of(uri)
    states = _load_states(folder)
    state = states.setdefault(f"{redact(uri)} {experiment}", SyncState())
    mlflow_run = _find_run(client, uri, experiment, record, state) or _create_run(
        client, uri, experiment, record, folder, placement
    )
    run_id: str = mlflow_run.info.run_id
    if state.mlflow_run_id != run_id or state.in_flight:
        state.mlflow_run_id, state.config, state.artifacts = run_id, "", {}
        state.last_step = _logged_steps(client, run_id, {key for row in rows for key in row.values})
    if record.get("mlflow_run_id") != run_id:
        update_record(folder, mlflow_run_id=run_id)
    hidden = placement.withheld(folder)
    _log_config(client, mlflow_run, hidden.tree(read_config(folder)), state)
    _tag(client, mlflow_run, placement.tags(hidden) | _job(record))
    new_values = 0
    for batch in _batches(_missing(rows, state.last_step)):
        state.in_flight = True
        _save_states(folder, states)
        client.log_batch(run_id, metrics=[_metric(row, key) for row, key in batch])
        state.last_step.update({key: row.step for row, key in batch})
        state.in_flight = False
        new_values += len(batch)
    if status != "running":
        log_artifacts(client, run_id, folder, hidden, state.artifacts)
    _save_states(folder, states)
    _set_status(client, mlflow_run, MLFLOW_STATUS[status], record)
    return SyncResult(run_id, MLFLOW_STATUS[status], new_values)


def _find_run(client: Any, uri: str, experiment: str, record: Mapping[str, Any], state: SyncState) -> Any:
    """The run these ids name, or the one that carries the tag; None when this server has never seen it."""
    from mlflow.exceptions import MlflowException

    for run_id in dict.fromkeys([state.mlflow_run_id, record.get("mlflow_run_id", "")]):
        try:
            found = client.get_run(run_id) if run_id else None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            continue
        if (
            found is not None
            and found.info.lifecycle_stage == "active"
            and found.data.tags.get("trocar.run_id") == record["run_id"]
            and client.get_experiment(found.info.experiment_id).name == experiment
        ):
            return found
    known = client.get_experiment_by_name(experiment)
    if known is None:
        return None
    found = client.search_runs([known.experiment_id], f"tags.`trocar.run_id` = '{record['run_id']}'", max_results=1)
    return found[0] if found else None


def _create_run(
    client: Any, uri: str, experiment: str, record: Mapping[str, Any], folder: Path, placement: Placement
) -> Any:
    hidden = placement.withheld(folder)
    return client.create_run(
        experiment_id(client, uri, experiment),
        start_time=_milliseconds(record.get("created")),
        run_name=hidden.text(placement.name),
        tags={
            "trocar.run_id": record["run_id"],
            "trocar.version": __version__,
            "trocar.folder": hidden.text(str(folder)),
            **placement.tags(hidden),
        },
    )


def _log_config(client: Any, mlflow_run: Any, config: Mapping[str, Any], state: SyncState) -> None:
    """Params can't change in mlflow: the first value stays, and a tag names what a later attempt has changed."""
    from mlflow.entities import Param, RunTag

    mark = fingerprint(config)
    if state.config == mark:
        return
    wanted, known = flatten(config), mlflow_run.data.params
    missing = [Param(key, value) for key, value in wanted.items() if key not in known]
    for start in range(0, len(missing), PARAMS_PER_CALL):
        client.log_batch(mlflow_run.info.run_id, params=missing[start : start + PARAMS_PER_CALL])
    changed = sorted(key for key, value in wanted.items() if known.get(key, value) != value)
    if changed:
        client.log_batch(mlflow_run.info.run_id, tags=[RunTag("trocar.changed", ", ".join(changed)[:8000])])
    state.config = mark


def _tag(client: Any, mlflow_run: Any, wanted: Mapping[str, str]) -> None:
    """Tags may change, as params can't."""
    from mlflow.entities import RunTag

    changed = [RunTag(key, value) for key, value in wanted.items() if mlflow_run.data.tags.get(key) != value]
    if changed:
        client.log_batch(mlflow_run.info.run_id, tags=changed)


def _job(record: Mapping[str, Any]) -> dict[str, str]:
    """The SLURM job with its requeues, and hours waited and run."""
    job = record.get("slurm")
    if not job:
        return {}
    hours = {f"slurm.{name}_h": f"{job[f'{name}_s'] / 3600:.3f}" for name in ("waiting", "running")}
    return {"slurm.job": job["job"], "slurm.requeues": str(job["requeues"]), **hours}


def _missing(rows: list[StepRow], last_step: Mapping[str, int]) -> Iterator[tuple[StepRow, str]]:
    for row in rows:
        for key in row.values:
            if row.step > last_step.get(key, row.step - 1):
                yield row, key


def _batches(items: Iterator[tuple[StepRow, str]]) -> Iterator[list[tuple[StepRow, str]]]:
    batch: list[tuple[StepRow, str]] = []
    for item in items:
        batch.append(item)
        if len(batch) == METRICS_PER_CALL:
            yield batch
            batch = []
    if batch:
        yield batch


def _metric(row: StepRow, key: str) -> Any:
    from mlflow.entities import Metric

    return Metric(_key(key), row.values[key], int(row.time * 1000), row.step)


def _logged_steps(client: Any, run_id: str, keys: set[str]) -> dict[str, int]:
    histories = {key: client.get_metric_history(run_id, _key(key)) for key in sorted(keys)}
    return {key: max(metric.step for metric in history) for key, history in histories.items() if history}


def _set_status(client: Any, mlflow_run: Any, status: str, record: Mapping[str, Any]) -> None:
    if mlflow_run.info.status == status:
        return
    if status == "RUNNING":
        client.update_run(mlflow_run.info.run_id, status="RUNNING")
    else:
        client.set_terminated(mlflow_run.info.run_id, status, _milliseconds(record.get("ended")))


def _milliseconds(stamp: str | None) -> int | None:
    return calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")) * 1000 if stamp else None


def _key(name: str) -> str:
    return _BAD_KEY.sub("_", name)[:KEY_LENGTH]


def _load_states(folder: Path) -> dict[str, SyncState]:
    try:
        tree = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return {target: SyncState(**state) for target, state in tree.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _save_states(folder: Path, states: Mapping[str, SyncState]) -> None:
    write_json_atomic(folder / STATE, {target: asdict(state) for target, state in states.items()})
