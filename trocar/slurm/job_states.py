"""What was submitted: FOLDER/<job>.job.json beside submitit's files, and the list of all in the directory of the user.
`trocar jobs` works from these, the run folders and the scheduler.

States of jobs: what squeue says, else what the accounting says, else what the job itself left behind. squeue comes
first. After a node has failed, sacct (and with it submitit) calls a job finished with NODE_FAIL that SLURM has put back
into its queue; and a cluster without accounting has no sacct.

The lives of a job: when it began and ended, over all requeues. `FOLDER/lives/<job>.jsonl`, written by rank 0. A life
that was killed has no end here; then the last sign of life of its run folder stands for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trocar.core.files import write_json_atomic
from trocar.core.resources import is_running
from trocar.errors import ConfigError, TrocarError
from trocar.runs.lease import NAME as LEASE

REGISTRY = Path(".trocar") / "jobs.jsonl"
SUBFOLDER = "slurm"
"""Of an output folder: scripts, pickles, logs and records of the jobs that write into it."""


@dataclass(frozen=True)
class Submission:
    """One sbatch call. `elements` names the stage of each index of an array; it is empty for a single job.

    `submitted` is in Unix seconds, `started` the start time of a local job's process (see `core.resources`).
    """

    job: str
    name: str
    words: tuple[str, ...]
    out: str
    folder: str
    cwd: str
    profile: dict[str, Any]
    submitted: float
    elements: dict[str, str] = field(default_factory=dict)
    started: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether submitit's local executor runs it."""
        return self.profile.get("cluster") == "local"

    @property
    def ids(self) -> list[str]:
        """Job ids as SLURM and submitit name them: `12`, or `12_0`, `12_1` ... of an array."""
        return [f"{self.job}_{index}" for index in self.elements] or [self.job]

    def log(self, job: str | None = None, stream: str = "err") -> Path:
        """The log of rank 0; other ranks have their number in place of the 0."""
        return Path(self.folder) / f"{job or self.ids[0]}_0_log.{stream}"


def folder_of(out: str | Path) -> Path:
    """Where the files of jobs that write to `out` are, as an absolute path."""
    return Path(out).absolute() / SUBFOLDER


def save(submission: Submission, directory: Path | None = None) -> None:
    """Write the record, and a line in the registry of `directory` (default: the one the words were typed in)."""
    write_json_atomic(_record_of(Path(submission.folder), submission.job), asdict(submission))
    registry = (directory or Path(submission.cwd)) / REGISTRY
    _append(registry, {"job": submission.job, "folder": submission.folder})


def submitted_from(directory: Path) -> list[Submission]:
    """All that was submitted from a directory and still has its record, the oldest first."""
    try:
        lines = (directory / REGISTRY).read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    found = {}
    for line in lines:
        entry = json.loads(line)
        if (submission := _load(_record_of(Path(entry["folder"]), entry["job"]))) is not None:
            found[submission.folder, submission.job] = submission
    return sorted(found.values(), key=lambda s: s.submitted)


def submitted_for(out: Path) -> list[Submission]:
    """All jobs that were submitted to write to one output folder, the oldest first. Raises ConfigError for none."""
    found = in_folder(folder_of(out))
    if not found:
        raise ConfigError(f"{out}: no job was submitted for this folder (there is no {SUBFOLDER}/*.job.json in it)")
    return found


def in_folder(folder: Path) -> list[Submission]:
    """All submissions with a record in a folder of jobs, the oldest first."""
    records: Iterable[Submission | None] = map(_load, folder.glob("*.job.json"))
    return sorted((record for record in records if record is not None), key=lambda s: s.submitted)


def _record_of(folder: Path, job: str) -> Path:
    return folder / f"{job}.job.json"


def _load(path: Path) -> Submission | None:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return Submission(**{**tree, "words": tuple(tree["words"])})


@dataclass(frozen=True)
class JobSummary:
    """Of a job so far: seconds from submission to its first start and between its lives, and seconds it ran."""

    job: str
    requeues: int
    waiting_s: float
    running_s: float


def begin(folder: Path, job: str, restart: int, out: Path | None) -> None:
    """Note that a life begins; `out` is where the life before may have left its last sign."""
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    _note(folder, job, {"event": "start", "restart": restart, "nodes": nodes, "seen": _last_sign(out)})


def end(folder: Path, job: str, code: int | None) -> None:
    """Note that a life ends with an exit code, or None for an exception that nobody expected."""
    _note(folder, job, {"event": "end", "code": code})


def read(folder: Path, job: str) -> list[dict[str, Any]]:
    """All events of a job; a line that a kill tore is left out."""
    try:
        lines = _lives_of(folder, job).read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def exit_code(folder: Path, job: str) -> int | None:
    """The exit code of a job whose last life has ended by itself, else None."""
    events = read(folder, job)
    return events[-1].get("code") if events and events[-1]["event"] == "end" else None


def summarise(job: str, submitted: float, events: list[dict[str, Any]], now: float | None = None) -> JobSummary:
    """Add up waiting and running until `now` (Unix seconds), the last event without it."""
    waiting = running = 0.0
    since, alive = submitted, False
    for event in events:
        if event["event"] == "start":
            if alive:  # the life before was killed
                died = min(max(event["seen"] or event["time"], since), event["time"])
                running, since = running + died - since, died
            waiting += max(0.0, event["time"] - since)
        else:
            running += event["time"] - since
        since, alive = event["time"], event["event"] == "start"
    if alive and now is not None:
        running += now - since
    return JobSummary(job, max(0, sum(e["event"] == "start" for e in events) - 1), round(waiting, 1), round(running, 1))


def for_record(summary: JobSummary) -> Mapping[str, Any]:
    """As run.json holds it."""
    return asdict(summary)


def _note(folder: Path, job: str, event: dict[str, Any]) -> None:
    _append(_lives_of(folder, job), {**event, "time": round(time.time(), 3), "pid": os.getpid()})


def _append(path: Path, entry: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(entry) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def _lives_of(folder: Path, job: str) -> Path:
    return folder / "lives" / f"{job}.jsonl"


def _last_sign(out: Path | None) -> float | None:
    """When the lease of a run folder last beat."""
    try:
        return round((out / LEASE).stat().st_mtime, 3) if out is not None else None
    except OSError:
        return None


ACTIVE = frozenset(
    {"PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "STOPPED"}
)
Run = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class JobState:
    """`state` in SLURM's words (UNKNOWN where nobody knows), why it waits or ended, and the nodes it is on."""

    state: str
    reason: str = ""
    nodes: str = ""

    @property
    def is_active(self) -> bool:
        """Whether the job waits or runs: it may still change something."""
        return self.state in ACTIVE


UNKNOWN = JobState("UNKNOWN")


def states(submissions: Iterable[Submission], run: Run | None = None) -> dict[str, JobState]:
    """The state of every job and array element, by id, with at most two calls of the scheduler.

    Raises TrocarError where squeue doesn't answer: then nothing is known, and nothing should be done.
    """
    submissions = list(submissions)
    found: dict[str, JobState] = {}
    slurm = [s for s in submissions if not s.is_local]
    if slurm:
        ask = run or run_command
        found |= _from_squeue(ask(["squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", "%i|%T|%r|%N"]))
        gone = sorted({s.job for s in slurm for job in s.ids if job not in found}, key=int)
        if gone:
            listed = {job.partition("_")[0] for job in found}
            found = {**_from_sacct(gone, ask), **found}
            # An element that is cancelled before it ran leaves its array without a trace.
            taken_out = [job for s in slurm if s.elements and s.job in listed for job in s.ids if job not in found]
            found |= dict.fromkeys(taken_out, JobState("CANCELLED", "before it ran"))
    return {job: _settled(s, job, found.get(job)) for s in submissions for job in s.ids}


def wait(submission: Submission, timeout_s: float, poll_s: float = 2.0) -> JobState:
    """The final state of a single job. Raises TrocarError after `timeout_s` seconds, with what it waits for."""
    deadline, state = time.monotonic() + timeout_s, UNKNOWN
    while True:
        # A controller that is being restarted answers again in a minute.
        with suppress(TrocarError):
            state = states([submission])[submission.job]
        # Just submitted, or between queue and accounting: unknown is no end.
        if not state.is_active and state != UNKNOWN:
            return state
        if time.monotonic() > deadline:
            raise TrocarError(f"job {submission.job} is still {state.state} after {timeout_s:.0f} s ({state.reason})")
        time.sleep(poll_s)


def run_command(command: Sequence[str]) -> str:
    """Output of a SLURM command. Raises TrocarError with its words."""
    try:
        return subprocess.run(list(command), capture_output=True, text=True, timeout=60, check=True).stdout
    except FileNotFoundError:
        raise TrocarError(f"no {command[0]} on the PATH: load the cluster's SLURM module") from None
    except subprocess.TimeoutExpired:
        raise TrocarError(f"{command[0]} has not answered for 60 s; is the SLURM controller well?") from None
    except subprocess.CalledProcessError as error:
        raise TrocarError(f"{command[0]}: {error.stderr.strip() or error}") from None


def _from_squeue(text: str) -> dict[str, JobState]:
    found = {}
    for line in text.splitlines():
        job, state, reason, nodes = line.split("|")
        found[job] = JobState(state, "" if reason == "None" else reason, nodes)
    return found


def _from_sacct(jobs: Sequence[str], run: Run) -> dict[str, JobState]:
    command = ["sacct", "-n", "-P", "-X", "-j", ",".join(jobs), "-o", "JobID,State,ExitCode,NodeList"]
    try:
        text = run(command)
    except TrocarError:
        return {}  # a cluster without accounting
    found = {}
    for line in text.splitlines():
        job, state, code, nodes = line.split("|")
        # "CANCELLED by 1000"; an array's waiting rest is one line, which squeue has element by element.
        if "[" not in job:
            found[job] = JobState(state.split()[0], "" if code == "0:0" else f"exit code {code}", nodes)
    return found


def _settled(submission: Submission, job: str, state: JobState | None) -> JobState:
    """With what the job left behind, where the scheduler has forgotten it or never knew it."""
    if state is not None and state.state != "UNKNOWN":
        return state
    if submission.is_local and is_running(int(submission.job), submission.started):
        return JobState("RUNNING", nodes="here")
    code = exit_code(Path(submission.folder), job)
    if code is None:
        # A local job that left no last word was killed.
        return JobState("FAILED", "it left no exit code") if submission.is_local else UNKNOWN
    return JobState("COMPLETED") if code == 0 else JobState("FAILED", f"exit code {code}")
