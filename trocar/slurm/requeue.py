"""What follows when a job was asked to stop: SIGUSR1 and SIGUSR2 ask it to come back, SIGTERM never does.

SLURM requeues a preempted job itself, and a cancelled one must stay cancelled: both send SIGTERM. The user signals come
before the time limit (`--signal`), and from sites whose preemption sends them first (`preempt_send_user_signal`).
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from trocar.core.messages import Say

REQUEUING = (signal.SIGUSR1, signal.SIGUSR2)
STOPPING = (*REQUEUING, signal.SIGTERM)
FOLDER, MOST = "TROCAR_JOB_FOLDER", "TROCAR_MAX_REQUEUES"
"""Variables that `Call` sets for the code below: the folder of submitit's files, and how often a job may come back."""
_PATIENCE_S = 60


def after_stop(number: int, is_main: bool, say: Say, environ: Mapping[str, str] = os.environ) -> int:
    """Ask for the requeue if the signal `number` means it (rank 0 does); returns the exit code of this rank.

    Without SLURM it is 128 + number, as shells expect; submitit's local executor restarts on a code of its own. `say`
    is told what became of the requeue.
    """
    if number in REQUEUING and environ.get("SUBMITIT_EXECUTOR") == "local":
        from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

        return int(LOCAL_REQUEUE_RETURN_CODE)
    if number in REQUEUING and is_main and "SLURM_JOB_ID" in environ:
        say(request(environ, say))
    return 128 + number


def request(environ: Mapping[str, str], say: Say) -> str:
    """Ask SLURM to requeue this job, unless it is ending the job already. Returns what happened, in words."""
    job, restarts = job_id(environ), int(environ.get("SLURM_RESTART_COUNT") or 0)
    if restarts >= int(environ.get(MOST, sys.maxsize)):
        return f"job {job} came back {restarts} times, which is max_requeues: it ends here; submit it again to go on"
    state = _ask(["squeue", "-h", "-j", job, "-o", "%T"], say)
    if state not in (None, "", "RUNNING"):
        return f"SLURM is ending job {job} already ({state}): no requeue asked for"
    if _ask(["scontrol", "requeue", job], say) is not None:
        return f"asked SLURM to requeue job {job}"
    if FOLDER in environ:
        # A container has no SLURM commands; the job's script looks for this file when Python has ended.
        Path(environ[FOLDER], f"requeue-{job}").touch()
    return f"`scontrol requeue {job}` does not work from here; left it to the job's script"


def job_id(environ: Mapping[str, str]) -> str:
    """`12`, or `12_3` for an element of an array: its SLURM_JOB_ID can be that of the whole array."""
    if "SLURM_ARRAY_JOB_ID" in environ:
        return f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    return environ["SLURM_JOB_ID"]


def script_lines(folder: Path) -> list[str]:
    """For the end of a job's script: the requeue that a container could not ask for; keeps srun's exit code."""
    # sbatch's script runs outside of the container; SLURM_ARRAY_JOB_ID is unset for a job that is no array.
    return [
        "code=$?",
        "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}; job=${job:-$SLURM_JOB_ID}",
        f'file={shlex.quote(str(folder))}/requeue-"$job"',
        'if [ -e "$file" ]; then rm "$file"; scontrol requeue "$job"; fi',
        "exit $code",
    ]


def _ask(command: list[str], say: Say) -> str | None:
    """What a command prints; None where it doesn't exist, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        say(f"{' '.join(command)}: {getattr(error, 'stderr', None) or error}".strip())
        return None
    return done.stdout.strip()
