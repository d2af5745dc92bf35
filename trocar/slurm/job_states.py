"""States of jobs: what squeue says, else what the accounting says, else what the job itself left behind.

squeue comes first. After a node has failed, sacct (and with it submitit) calls a job finished with NODE_FAIL that SLURM
has put back into its queue; and a cluster without accounting has no sacct.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trocar.errors import TrocarError
from trocar.runs.process_identity import is_running
from trocar.slurm import job_history
from trocar.slurm.submissions import Submission

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
    code = job_history.exit_code(Path(submission.folder), job)
    if code is None:
        # A local job that left no last word was killed.
        return JobState("FAILED", "it left no exit code") if submission.is_local else UNKNOWN
    return JobState("COMPLETED") if code == 0 else JobState("FAILED", f"exit code {code}")
