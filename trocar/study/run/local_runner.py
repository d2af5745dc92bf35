"""Run the stages of a study as processes of this machine, several at a time.

Submit the stages of a study to SLURM: arrays with dependencies; each job runs `trocar study stage`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trocar.errors import StoppedError
from trocar.runs.process_identity import host_name
from trocar.slurm.arrays import JobStage as Job
from trocar.slurm.graph import Graph, scripts, submit_graph
from trocar.slurm.profile import Profile
from trocar.study.run.stage_execution import HELD
from trocar.study.stage_store import Store, check_size
from trocar.study.stages import Keep, Kind, Stage

if TYPE_CHECKING:  # each loads torch, and a runner starts many processes that need none
    from trocar.study.config import StudyConfig
    from trocar.study.plan.expand import StudyPlan


def submit(plan: StudyPlan, store: Store, profile: Profile) -> Graph:
    """Submit all stages that are not done and don't wait or run already. Raises ConfigError, TrocarError."""
    for stage in plan.stages.values():
        store.put(stage, plan.study.threads, plan.study.keep)
    out = store.study(plan.study.name)
    return submit_graph(jobs(plan, store, profile), out, profile, name=_job_name(plan.study), finished=store.is_done)


def script(plan: StudyPlan, store: Store, profile: Profile) -> str:
    """The sbatch scripts of all stages that are not done."""
    left = [job for job in jobs(plan, store, profile) if not store.is_done(job.name)]
    return scripts([_without_done(job, store) for job in left], store.study(plan.study.name), profile)


def jobs(plan: StudyPlan, store: Store, profile: Profile) -> list[Job]:
    """One per stage: pretrainings have all that the profile asks for, evaluations one task and one GPU at most."""
    threads = plan.study.threads
    # As for local processes: without it a job takes as many threads as its node has cores.
    environment = {"environment": profile.environment | {"OMP_NUM_THREADS": str(threads)}} if threads else {}
    return [
        Job(
            name=name,
            words=("study", "stage", str(store.folder(name))),
            after=stage.parents,
            resources=_resources(stage.kind, profile) | environment,
        )
        for name, stage in plan.stages.items()
    ]


def _resources(kind: Kind, profile: Profile) -> dict[str, Any]:
    if kind == "pretrain":
        return {}
    gpus = min(1, profile.gpus_per_node) if kind == "evaluate" else 0
    return {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": gpus}


def _without_done(job: Job, store: Store) -> Job:
    after = tuple(parent for parent in job.after if not store.is_done(parent))
    return Job(job.name, job.words, after, job.resources)


def _job_name(study: StudyConfig) -> str:
    return study.name.replace(" ", "-")


POLL_S = 0.1
LOOK_S = 1.0
"""Between two looks at stages that other runs may have ended."""
AGAIN_S = 10.0
"""Before a stage that another host works on is tried again."""

Launch = Callable[[Path, Mapping[str, str]], "subprocess.Popen[bytes]"]


@dataclass
class Ended:
    """What became of the stages: names; `blocked` wait for one that failed, `failed` -> exit code."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)


class Runner:
    """Runs `stages` (each behind its parents), at most `jobs` at a time.

    Stages that another runner works on are waited for while others are done. `launch` starts the process of one stage
    folder with an environment. `say` is told a line for each stage that ends.
    """

    def __init__(
        self,
        stages: Mapping[str, Stage],
        store: Store,
        jobs: int,
        *,
        labels: Mapping[str, str] | None = None,
        threads: int | None = None,
        keep: Keep = "backbone",
        say: Callable[[str], None] = lambda _: None,
        launch: Launch | None = None,
    ) -> None:
        self.stages, self.store, self.jobs = dict(stages), store, jobs
        self.labels, self.threads, self.keep, self.say = labels or {}, threads, keep, say
        self.launch = launch or launch_stage
        self.ended = Ended()
        self._running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
        self._later: dict[str, float] = {}
        self._failures = {name: self._failure(name) for name in self.stages}
        self._stop = 0
        self._look_at = 0.0

    def run(self) -> Ended:
        """Until all stages have ended or wait for one that failed. Raises TrocarError for a result that got damaged.

        After `stop` raises KeyboardInterrupt for SIGINT, StoppedError for any other signal, when the stages have ended.
        """
        try:
            while self._settle() and not self._stop:
                self._start_more()
                time.sleep(POLL_S)
        finally:
            self._end_children()
        if self._stop == signal.SIGINT:
            raise KeyboardInterrupt
        if self._stop:
            raise StoppedError(128 + self._stop)
        return self.ended

    def stop(self, number: int) -> None:
        """Ask the stages to save and stop, for the signal `number`; a second time it kills them."""
        if self._stop:
            self._send(signal.SIGKILL)
        else:
            self._stop = number
            self.say("stopping: stages save first; again kills them")

    def _settle(self) -> bool:
        """Take note of what has ended; False when nothing is left to be done."""
        for name, (process, started) in list(self._running.items()):
            code = process.poll()
            if code is not None:
                del self._running[name]
                self._note(name, code, time.monotonic() - started)
                self._look_at = 0.0
        if time.monotonic() >= self._look_at:
            # Not at every turn: a study has hundreds of stages, and they lie on a file server.
            self._look_at = time.monotonic() + LOOK_S
            for name in list(self._open()):
                self._look(name)
        return bool(self._running) or any(True for _ in self._open())

    def _look(self, name: str) -> None:
        """Whether a stage has an end without a process of ours."""
        failure = self._failure(name)
        if self.store.is_done(name):
            check_size(self.store, name)
            self._done(name, "was there" if name not in self._later else "done by another run")
        elif failure not in (None, self._failures[name]) and self.store.worker(name) is None:
            self._failed(name, 1)  # by another run, since this one began
        elif any(p in self.ended.failed or p in self.ended.blocked for p in self.stages[name].parents):
            self.ended.blocked.append(name)
            self.say(f"{self._called(name)}: waits for a stage that failed")

    def _open(self) -> Iterator[str]:
        """Stages that nothing is known of yet and nobody of ours works on."""
        for name in self.stages:
            ended = name in self.ended.failed or name in self._finished or name in self.ended.blocked
            if not ended and name not in self._running:
                yield name

    @property
    def _finished(self) -> set[str]:
        return set(self.ended.done)

    def _start_more(self) -> None:
        done, now = self._finished, time.monotonic()
        for name in list(self._open()):
            if len(self._running) >= self.jobs:
                return
            parents = [p for p in self.stages[name].parents if p in self.stages]
            if all(p in done for p in parents) and now >= self._later.get(name, 0) and self._is_free(name):
                self._start(name)

    def _is_free(self, name: str) -> bool:
        """Whether nobody works on the stage. A worker of this host is waited for; what became of one of another host
        only the lease can tell, which a process of ours then waits for.
        """
        worker = self.store.worker(name)
        if worker is None:
            return True
        self._later[name] = time.monotonic() + LOOK_S
        return worker.host != host_name()

    def _start(self, name: str) -> None:
        folder = self.store.put(self.stages[name], self.threads, self.keep)
        threads = self.threads or max(1, _cores() // self.jobs)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        environment.pop("RANK", None)
        self._running[name] = (self.launch(folder, environment), time.monotonic())

    def _note(self, name: str, code: int, seconds: float) -> None:
        if code == 0 and self.store.is_done(name):
            self._done(name, f"done in {seconds:.0f} s")
        elif code == HELD:
            self._later[name] = time.monotonic() + AGAIN_S
        elif not self._stop:
            self._failed(name, code)

    def _done(self, name: str, how: str) -> None:
        self.ended.done.append(name)
        self.say(f"[{len(self.ended.done)}/{len(self.stages)}] {self._called(name)}: {how}")

    def _failed(self, name: str, code: int) -> None:
        self.ended.failed[name] = code
        self.say(f"{self._called(name)}: FAILED with exit code {code}; the end of {self.store.folder(name)}/log.txt:")
        for line in self.store.log_tail(name):
            self.say(f"    {line}")

    def _called(self, name: str) -> str:
        label = self.labels.get(name)
        return f"{name} ({label})" if label else name

    def _failure(self, name: str) -> str | None:
        failure = self.store.failure(name)
        return failure.attempt if failure is not None else None

    def _end_children(self) -> None:
        """Every way out waits for the stages: what they save is theirs to finish."""
        self._send(signal.SIGTERM)
        for process, _ in self._running.values():
            process.wait()

    def _send(self, number: int) -> None:
        for process, _ in self._running.values():
            if process.poll() is None:
                # The whole session: ranks and loader processes of a stage are its children.
                os.killpg(process.pid, number) if number == signal.SIGKILL else process.send_signal(number)


def launch_stage(folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `trocar study stage FOLDER`, in a session of its own: Ctrl-C at the terminal is the runner's to pass on."""
    return launch_process([sys.executable, "-m", "trocar", "study", "stage", str(folder)], folder, environment)


def launch_process(words: list[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process whose words before and after the stage itself go to FOLDER/process.txt."""
    with (folder / "process.txt").open("ab") as log:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(environment), start_new_session=True
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
