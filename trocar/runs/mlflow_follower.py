"""mlflow, live: a separate process of low priority tails the metrics of a run, so that training never waits
for it.

It is a process because importing mlflow takes seconds and its calls hold the interpreter lock, and because a
tracking server that hangs must hang something else than the trainer. What goes wrong is written to
RUN/tracking.log.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from trocar.core.resources import host_name, is_running, lower_priority, start_time
from trocar.errors import TrocarError
from trocar.runs.mlflow_server import resolve_uri, scrub
from trocar.runs.mlflow_sync import DEFAULT_EXPERIMENT, sync
from trocar.runs.run_folder import read_record

LOG = "tracking.log"


@dataclass
class Follower:
    """The trainer's handle on the tracking process. `note` says why there is none, for the trainer to log."""

    process: subprocess.Popen[bytes] | None
    note: str = ""

    @classmethod
    def start(cls, folder: str | Path, uri: str | None = None, experiment: str = DEFAULT_EXPERIMENT) -> Follower:
        """Start following the run in `folder` (after `Run.open`). Never raises: without it, training is the
        same.

        `uri` is a tracking URI, `sqlite` for the database beside the run folder, or `none`. Inside a SLURM
        job only http(s) servers are followed: many jobs on one sqlite file of a network file system corrupt
        it. The host that submitted brings mlflow up to date with `trocar track sync`.
        """
        folder = Path(folder).resolve()
        if uri == "none":
            return cls(None)
        if find_spec("mlflow") is None:
            todo = "pip install 'trocar[mlflow]' and `trocar track sync` later, or tracking.uri=none"
            return cls(None, f"mlflow isn't installed, so the numbers are in the run folder alone: {todo}")
        resolved = resolve_uri(folder, uri)
        if not may_follow(resolved, os.environ):
            return cls(
                None, f"mlflow isn't followed from SLURM jobs without a server: run `trocar track sync {folder}`"
            )
        # The URI may hold credentials, and everybody on the machine can read an argument list.
        environment = {**os.environ, "TROCAR_TRACKING_URI": resolved, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "trocar", "track", "sync", str(folder), "--experiment", experiment]
        try:
            process = subprocess.Popen(
                [*command, "--follow", "--parent", str(os.getpid())],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # A ctrl-C or a signal to the trainer's group must not cost the last sync.
                start_new_session=True,
            )
        except OSError as error:
            return cls(None, f"mlflow isn't followed: {error}")
        return cls(process)

    def stop(self, timeout_s: float = 30.0) -> bool:
        """Wait for the last sync, which begins when `Run.finish` has been called. Returns whether it is
        complete.

        After the timeout the process is left alone; it ends by itself with this process at the latest.
        """
        if self.process is None:
            return False
        try:
            return self.process.wait(timeout_s) == 0
        except subprocess.TimeoutExpired:
            return False


def may_follow(uri: str, environ: Mapping[str, str]) -> bool:
    """Whether a process with this environment may write to `uri` while it trains."""
    return "SLURM_JOB_ID" not in environ or uri.startswith(("http://", "https://", "databricks"))


def follow(
    folder: Path,
    parent: int,
    uri: str | None = None,
    experiment: str = DEFAULT_EXPERIMENT,
    *,
    poll_s: float = 10.0,
    last_tries_s: float = 120.0,
) -> bool:
    """Sync every `poll_s` seconds until the run has ended or process `parent` has; then once more, and
    return.

    A failing sync is tried again, after the end for `last_tries_s` seconds. Returns whether the last one
    succeeded.
    """
    lower_priority()
    folder = folder.resolve()
    log = _open_log(folder, resolve_uri(folder, uri))
    attempt, started = read_record(folder).get("attempt"), start_time(parent)
    trouble = ""
    ended_at: float | None = None
    while True:
        if ended_at is None and _has_ended(folder, attempt, parent, started):
            ended_at = time.monotonic()
        try:
            result = sync(folder, uri, experiment)
            if trouble:
                log.info("up to date again, mlflow run %s", result.mlflow_run_id)
            trouble = ""
            if ended_at is not None:
                return True
        except TrocarError as error:
            if str(error) != trouble:
                log.warning("%s", error)
            trouble = str(error)
        if ended_at is not None and time.monotonic() - ended_at > last_tries_s:
            log.error("gave up; run `trocar track sync %s`", folder)
            return False
        _wait(poll_s if ended_at is None else min(poll_s, 2.0), folder, attempt, parent, started)


def _wait(seconds: float, folder: Path, attempt: object, parent: int, started: str | None) -> None:
    """Sleep, but not past the end of the run."""
    deadline = time.monotonic() + seconds
    ended = _has_ended(folder, attempt, parent, started)
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, 0.5))
        if not ended and _has_ended(folder, attempt, parent, started):
            return


def _has_ended(folder: Path, attempt: object, parent: int, started: str | None) -> bool:
    try:
        record = read_record(folder)
    except (TrocarError, OSError):
        return not is_running(parent, started)
    over = record.get("status", "running") != "running" or record.get("attempt") != attempt
    return over or started is None or not is_running(parent, started)


class _Scrubbed(logging.Formatter):
    """What mlflow, alembic and urllib3 log goes through here too, and they repeat URLs."""

    def __init__(self, uri: str) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._uri = uri

    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record), self._uri)


def _open_log(folder: Path, uri: str) -> logging.Logger:
    handler = logging.FileHandler(folder / LOG, delay=True, encoding="utf-8")
    handler.setFormatter(_Scrubbed(uri))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.WARNING)
    log = logging.getLogger("trocar.runs")
    log.setLevel(logging.INFO)
    return log


def writer_of(folder: Path) -> int:
    """The pid of the process that writes the run, for following it by hand. Raises TrocarError on another
    host.
    """
    process = read_record(folder).get("process", {})
    if process.get("host") != host_name():
        raise TrocarError(
            f"{folder} is written on {process.get('host', 'an unknown host')}: follow it there, or run "
            f"`trocar track sync {folder}` now and then"
        )
    return int(process["pid"])
