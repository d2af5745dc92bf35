"""What a job runs: the words of a `trocar` command, in the place where they were submitted, as one rank of many.

This is a program, not a library: submitit calls it in the job's own process, before there is a command line.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from types import FrameType

from trocar.errors import TrocarError, extra
from trocar.slurm import job_states
from trocar.slurm.requeue import FOLDER, MOST, STOPPING, after_stop

PROGRAM = "trocar.cli.main:main"
"""The command line, by name: words -> exit code. Rooms below it don't import it."""

with extra("slurm"):
    import submitit


class JobFailedError(TrocarError):
    """The command ended with an exit code; its message is in the log."""


@dataclass(frozen=True)
class Call:
    """Submitted by submitit as a pickle, which holds nothing that changes: what a run has done is in its folder.

    `words` are those of the command line, without the program; `folder` is that of submitit's files, `cwd` where the
    words were typed, `run` the run folder that is told about requeues (None for commands that have none).
    """

    words: tuple[str, ...]
    folder: str
    cwd: str
    submitted: float
    run: str | None = None
    max_requeues: int = 100

    def __call__(self) -> None:
        """Run the command in this process.

        Raises JobFailedError for an exit code that isn't 0, so that SLURM counts the job as failed; SystemExit, of
        which submitit writes no result, after a stop by a signal.
        """
        here = submitit.JobEnvironment()
        StopBeforeTraining(here.global_rank == 0)
        os.chdir(self.cwd)
        os.environ.update(self.variables(here))
        code: int | None = None
        if here.global_rank == 0:
            self._begin(here.job_id)
        try:
            code = int(resolve_name(PROGRAM)(self.words))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
            raise
        finally:
            if here.global_rank == 0:
                self._end(here.job_id, code)
        if code:
            raise JobFailedError(f"`trocar {self.words[0]}` ended with exit code {code}; its message is above")

    def variables(self, here: submitit.JobEnvironment) -> dict[str, str]:
        """Ranks and their meeting place for `World.from_environment`, and what the requeue needs."""
        # Of this life alone: ranks of two lives that met would wait for each other for ever.
        life = f"{here.job_id}-{os.environ.get('SLURM_RESTART_COUNT') or 0}"
        return {
            "RANK": str(here.global_rank),
            "LOCAL_RANK": str(here.local_rank),
            "WORLD_SIZE": str(here.num_tasks),
            "TROCAR_RENDEZVOUS": f"port://{Path(self.folder) / 'meet' / life}.json",
            FOLDER: self.folder,
            MOST: str(self.max_requeues),
        }

    def _begin(self, job: str) -> None:
        run = Path(self.run) if self.run else None
        job_states.begin(Path(self.folder), job, int(os.environ.get("SLURM_RESTART_COUNT") or 0), run)
        self._tell_run(job)

    def _end(self, job: str, code: int | None) -> None:
        job_states.end(Path(self.folder), job, code)
        self._tell_run(job)

    def _tell_run(self, job: str) -> None:
        """run.json, and by it mlflow, gets requeues and hours."""
        if self.run is None or not Path(self.run).is_dir():
            return
        from trocar.runs.run_folder import update_record

        events = job_states.read(Path(self.folder), job)
        update_record(
            self.run, slurm=job_states.for_record(job_states.summarise(job, self.submitted, events, time.time()))
        )


class StopBeforeTraining:
    """Answers signals while nothing is there to save: imports, a command that continues by what it left on disk.

    Installed after submitit's own handlers and in their place: those would write the job's pickle anew, let SIGTERM
    pass, and leave all ranks but the first running.
    """

    def __init__(self, is_main: bool) -> None:
        self.is_main = is_main
        self._stopping = False
        for number in STOPPING:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._stopping:  # signals come in bunches; the first one is being answered
            self._stopping = True
            raise SystemExit(after_stop(number, self.is_main, _say))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
