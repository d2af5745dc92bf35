"""The stages of a study as arrays of SLURM jobs with dependencies; each element runs `trocar study stage`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from trocar.errors import ConfigError, TrocarError
from trocar.runs.run_folder import last_lines
from trocar.slurm.arrays import JobStage
from trocar.slurm.graph import Graph, cancel, scripts, submit_graph
from trocar.slurm.job_states import LOST, JobState
from trocar.slurm.profile import Profile
from trocar.study.run.local_executor import LocalExecutor
from trocar.study.run.stage_executor import EndedStages, StageExecutor, StageFailure
from trocar.study.stage_store import Store
from trocar.study.stages import Keep, Kind, Stage

LINES = 5
"""Of the log of a job that was lost."""


@dataclass
class SlurmExecutor(StageExecutor):
    """Submits stages with a `profile`: pretrainings get all that it asks for, evaluations one task and one GPU at most.

    `study` names the jobs and the folder of the store that remembers them; `threads` of CPU per stage and what to
    `keep` are those of the study.
    """

    store: Store
    study: str
    profile: Profile
    threads: int | None = None
    keep: Keep = "backbone"
    detached: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.out = self.store.study(self.study)
        self._stages: Mapping[str, Stage] = {}
        self._lost: dict[str, tuple[str, JobState]] = {}

    def script(self, stages: Mapping[str, Stage]) -> str:
        """The sbatch scripts, with array names in place of the job ids of parents."""
        left = {name: stage for name, stage in stages.items() if not self.store.is_done(name)}
        # A parent that is done needs no place in the graph.
        return scripts([self._job(name, stage, set(left)) for name, stage in left.items()], self.out, self.profile)

    def submit(self, stages: Mapping[str, Stage], labels: Mapping[str, str]) -> int:
        """One array for each kind of resources and place in the graph; what waits or runs already is left alone."""
        for stage in stages.values():
            self.store.put(stage, self.threads, self.keep)
        jobs = [self._job(name, stage, set(stages)) for name, stage in stages.items()]
        name = self.study.replace(" ", "-")
        submit_graph(jobs, self.out, self.profile, name=name, finished=self.store.is_done)
        self._stages = stages
        return sum(not self.store.is_done(name) for name in stages)

    def watch(self) -> EndedStages:
        """What is done already: jobs are waited for by `trocar study status` and `trocar jobs`."""
        return EndedStages(done=[name for name in self._stages if self.store.is_done(name)])

    def stop(self, number: int) -> None:
        """Cancel the jobs that wait or run; SLURM asks them to save first and then kills them itself."""
        graph = Graph.load(self.out)
        active = [graph.jobs[name] for name, state in graph.states().items() if state.is_active]
        if active:
            cancel(sorted(active))

    def states(self, names: Iterable[str]) -> dict[str, str]:
        """By the store; failed are stages as well whose job was lost before they began, such as for want of memory."""
        found = super().states(names)
        if "waiting" not in found.values():
            return found
        graph = Graph.load(self.out)
        try:
            jobs = graph.states()
        except TrocarError:
            return found  # a scheduler that does not answer knows nothing that could be told
        nothing = JobState("NOT SUBMITTED")
        self._lost = {
            name: (graph.jobs[name], jobs[name])
            for name, state in found.items()
            if state == "waiting" and jobs.get(name, nothing).state in LOST
        }
        return found | dict.fromkeys(self._lost, "failed")

    def failure(self, name: str) -> StageFailure:
        """By the stage's own log, or by that of a job that was lost before the stage had any."""
        if name not in self._lost:
            return super().failure(name)
        job, state = self._lost[name]
        log = Graph.load(self.out).log(name)
        why = f" ({state.reason})" if state.reason else ""
        return StageFailure(f"job {job} ended as {state.state}{why} before it began", log, last_lines(log, LINES))

    def _job(self, name: str, stage: Stage, known: set[str]) -> JobStage:
        # As for local processes: without it a job takes as many threads as its node has cores.
        threads = {"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}
        environment = {"environment": self.profile.environment | threads} if threads else {}
        words = ("study", "stage", str(self.store.folder(name)))
        after = tuple(parent for parent in stage.parents if parent in known)
        return JobStage(name, words, after, self._resources(stage.kind) | environment)

    def _resources(self, kind: Kind) -> dict[str, Any]:
        if kind == "pretrain":
            return {}
        gpus = min(1, self.profile.gpus_per_node) if kind == "evaluate" else 0
        return {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": gpus}


def last_executor(store: Store, study: str) -> StageExecutor:
    """What the stages of a study were last submitted to: SLURM, or processes of this machine."""
    try:
        graph = Graph.load(store.study(study))
    except ConfigError:
        return LocalExecutor(store)
    return SlurmExecutor(store, study, graph.profile)
