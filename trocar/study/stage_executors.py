"""Where the stages of a study run: the loop that follows them, what it asks of an executor, and the two that there are.

Every executor runs `trocar study stage FOLDER` and leaves the same records in the store, so that a study may be begun
by one and finished by another.
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
from typing import Any, NoReturn, Protocol

from trocar.core.messages import Say
from trocar.core.resources import host_name, usable_cores
from trocar.errors import StoppedError
from trocar.slurm.arrays import JobStage
from trocar.slurm.profile import Profile
from trocar.study.stage_execution import HELD
from trocar.study.stages import Keep, Stage, Store, check_size

POLL_S = 0.1
LOOK_S = 1.0
"""Between two looks at stages that other runs may have ended."""
AGAIN_S = 10.0
"""Before a stage that another host works on is tried again."""

Stages = Mapping[str, Stage]
"""Name -> stage, each behind its parents."""
Launch = Callable[[Path, Mapping[str, str]], "subprocess.Popen[bytes]"]


@dataclass
class Ended:
    """What became of the stages: names; `blocked` wait for one that failed, `failed` -> exit code. `stopped`: the
    signal that ended it, 0 for none.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    stopped: int = 0


class StageExecutor(Protocol):
    """Runs stages behind those that they depend on; `ended` is what it has found out about them."""

    ended: Ended

    def submit(self, stages: Stages) -> None:
        """Take over all stages that are not done. Raises ConfigError or TrocarError where that can't be."""

    def poll(self) -> bool:
        """Take note of what has ended and start what may begin; whether this process has to wait for more.

        Raises TrocarError for a result that got damaged.
        """

    def stop(self, number: int) -> None:
        """Answer the signal `number`, which may come at any moment."""

    def close(self) -> None:
        """Leave nothing running that ends with this process."""


def run_stages(executor: StageExecutor, stages: Stages) -> Ended:
    """Run all that is missing; returns when there is nothing left to wait for. Raises what `submit` and `poll` raise.

    After `stop` raises KeyboardInterrupt for SIGINT, StoppedError for any other signal.
    """
    executor.submit(stages)
    try:
        while executor.poll():
            time.sleep(POLL_S)
    finally:
        executor.close()
    if executor.ended.stopped:
        _end_by(executor.ended.stopped)
    return executor.ended


def _end_by(number: int) -> NoReturn:
    raise KeyboardInterrupt if number == signal.SIGINT else StoppedError(128 + number)


class LocalExecutor:
    """Stages as processes of this machine, at most `jobs` at a time, each with `threads` (None: a share of the cores).

    Stages that another study works on are waited for while others are done. `keep`: see StageSpec. `say` is told a line
    for each stage that ends, which it calls by its label. `launch` starts the process of one stage folder with an
    environment.
    """

    def __init__(
        self,
        store: Store,
        jobs: int,
        *,
        labels: Mapping[str, str] | None = None,
        threads: int | None = None,
        keep: Keep = "backbone",
        say: Say = lambda _: None,
        launch: Launch | None = None,
    ) -> None:
        self.store, self.jobs = store, jobs
        self.labels, self.threads, self.keep, self.say = labels or {}, threads, keep, say
        self.launch = launch or launch_stage
        self.ended = Ended()
        self._stages: dict[str, Stage] = {}
        self._running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
        self._later: dict[str, float] = {}
        self._failures: dict[str, str | None] = {}
        self._look_at = 0.0

    def submit(self, stages: Stages) -> None:
        """Those that are done already are found so by `poll`."""
        self._stages = dict(stages)
        self._failures = {name: self._failure(name) for name in stages}

    def poll(self) -> bool:
        """Start as many stages as may run; False when all have ended or wait for one that failed, and after `stop`."""
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
        left = bool(self._running) or any(True for _ in self._open())
        if left and not self.ended.stopped:
            self._start_more()
        return left and not self.ended.stopped

    def stop(self, number: int) -> None:
        """Ask the stages to save and stop; a second time it kills them."""
        if self.ended.stopped:
            self._send(signal.SIGKILL)
        else:
            self.ended.stopped = number
            self.say("stopping: stages save first; again kills them")

    def close(self) -> None:
        """Every way out waits for the stages: what they save is theirs to finish."""
        self._send(signal.SIGTERM)
        for process, _ in self._running.values():
            process.wait()

    def _look(self, name: str) -> None:
        """Whether a stage has an end without a process of ours."""
        failure = self._failure(name)
        if self.store.is_done(name):
            check_size(self.store, name)
            self._done(name, "was there" if name not in self._later else "done by another run")
        elif failure not in (None, self._failures[name]) and self.store.worker(name) is None:
            self._failed(name, 1)  # by another run, since this one began
        elif any(p in self.ended.failed or p in self.ended.blocked for p in self._stages[name].parents):
            self.ended.blocked.append(name)
            self.say(f"{self._called(name)}: waits for a stage that failed")

    def _open(self) -> Iterator[str]:
        """Stages that nothing is known of yet and nobody of ours works on."""
        known = {*self.ended.done, *self.ended.failed, *self.ended.blocked, *self._running}
        return (name for name in self._stages if name not in known)

    def _start_more(self) -> None:
        done, now = set(self.ended.done), time.monotonic()
        for name in list(self._open()):
            if len(self._running) >= self.jobs:
                return
            parents = [p for p in self._stages[name].parents if p in self._stages]
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
        folder = self.store.put(self._stages[name], self.threads, self.keep)
        threads = self.threads or max(1, usable_cores() // self.jobs)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        environment.pop("RANK", None)
        self._running[name] = (self.launch(folder, environment), time.monotonic())

    def _note(self, name: str, code: int, seconds: float) -> None:
        if code == 0 and self.store.is_done(name):
            self._done(name, f"done in {seconds:.0f} s")
        elif code == HELD:
            self._later[name] = time.monotonic() + AGAIN_S
        elif not self.ended.stopped:
            self._failed(name, code)

    def _done(self, name: str, how: str) -> None:
        self.ended.done.append(name)
        self.say(f"[{len(self.ended.done)}/{len(self._stages)}] {self._called(name)}: {how}")

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

    def _send(self, number: int) -> None:
        for process, _ in self._running.values():
            if process.poll() is None:
                # The whole session: ranks and loader processes of a stage are its children.
                os.killpg(process.pid, number) if number == signal.SIGKILL else process.send_signal(number)


def launch_stage(folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `trocar study stage FOLDER`, in a session of its own: Ctrl-C at the terminal is not for it to answer."""
    return launch_process([sys.executable, "-m", "trocar", "study", "stage", str(folder)], folder, environment)


def launch_process(words: list[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process whose words before and after the stage itself go to FOLDER/process.txt."""
    with (folder / "process.txt").open("ab") as log:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(environment), start_new_session=True
        )


class SlurmExecutor:
    """Stages as arrays of SLURM jobs with dependencies, which go on when this process has ended.

    `study` names the jobs and the folder of the store that remembers them. By `profile` pretrainings get all that it
    asks for, evaluations one task and one GPU at most. `threads` and `keep`: see StageSpec.
    """

    def __init__(self, store: Store, study: str, profile: Profile, threads: int | None, keep: Keep) -> None:
        self.store, self.study, self.profile, self.threads, self.keep = store, study, profile, threads, keep
        self.ended = Ended()

    def script(self, stages: Stages) -> str:
        """The sbatch scripts of all stages that are not done, for a dry run."""
        from trocar.slurm.graph import scripts  # submitit, which a study on this machine needs not

        left = {name: stage for name, stage in stages.items() if not self.store.is_done(name)}
        return scripts(self._jobs(left), self.store.study(self.study), self.profile)

    def submit(self, stages: Stages) -> None:
        """Those that wait or run already are left alone. Where it can't be done, nothing of this call runs."""
        from trocar.slurm.graph import submit_graph  # as in `script`

        for stage in stages.values():
            self.store.put(stage, self.threads, self.keep)
        out, name = self.store.study(self.study), self.study.replace(" ", "-")
        submit_graph(self._jobs(stages), out, self.profile, name=name, finished=self.store.is_done)

    def poll(self) -> bool:
        """False: `trocar study status` and `trocar jobs` follow them."""
        return False

    def stop(self, number: int) -> None:
        """Submit no more: jobs that are submitted go on. Raises KeyboardInterrupt for SIGINT, else StoppedError."""
        _end_by(number)

    def close(self) -> None:
        """The jobs are SLURM's."""

    def _jobs(self, stages: Stages) -> list[JobStage]:
        """A job per stage that waits for its parents among `stages`."""
        # As for local processes: without it a job takes as many threads as its node has cores.
        threads = {"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}
        environment = {"environment": self.profile.environment | threads} if threads else {}
        one = {"nodes": 1, "tasks_per_node": 1}
        resources: Mapping[str, dict[str, Any]] = {
            "pretrain": {},
            "evaluate": one | {"gpus_per_node": min(1, self.profile.gpus_per_node)},
            "report": one | {"gpus_per_node": 0},
        }
        return [
            JobStage(
                name,
                ("study", "stage", str(self.store.folder(name))),
                after=tuple(parent for parent in stage.parents if parent in stages),
                resources=resources[stage.kind] | environment,
            )
            for name, stage in stages.items()
        ]
