"""Submit a graph of stages, remember which job each is, and submit parts of it again.

FOLDER/slurm/graph.json has the stages and their job ids. What is finished is never submitted again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trocar.core.config import validate
from trocar.core.files import write_json_atomic
from trocar.errors import ConfigError, TrocarError, nearest
from trocar.slurm import job_states
from trocar.slurm.arrays import Array, JobStage, check, dependents, plan
from trocar.slurm.executor import Executor, slurm_executor
from trocar.slurm.job_states import JobState, Submission, run_command, states
from trocar.slurm.profile import Profile
from trocar.slurm.remote_call import Call
from trocar.slurm.submit import max_elements, site_facts

GRAPH = "graph.json"


@dataclass(frozen=True)
class Graph:
    """The stages of a graph, the job of each (absent: not submitted), and the profile they were submitted with."""

    out: Path
    name: str
    cwd: str
    profile: Profile
    stages: tuple[JobStage, ...]
    jobs: dict[str, str]

    def save(self) -> None:
        """Write it, as the last word on which job is which stage."""
        tree = {
            "name": self.name,
            "cwd": self.cwd,
            "profile": self.profile.model_dump(mode="json"),
            "stages": [asdict(stage) for stage in self.stages],
            "jobs": self.jobs,
        }
        write_json_atomic(job_states.folder_of(self.out) / GRAPH, tree)

    @classmethod
    def load(cls, out: Path) -> Graph:
        """Raises ConfigError where no graph was submitted."""
        path = job_states.folder_of(out) / GRAPH
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{out}: no graph of stages was submitted for this folder") from None
        stages = tuple(
            JobStage(**{**s, "words": tuple(s["words"]), "after": tuple(s["after"])}) for s in tree["stages"]
        )
        profile = validate(Profile, tree["profile"], str(path))
        return cls(out, tree["name"], tree["cwd"], profile, stages, tree["jobs"])

    def is_finished(self, name: str) -> bool:
        """Whether a stage has ended with exit code 0, by its own word."""
        return name in self.jobs and job_states.exit_code(job_states.folder_of(self.out), self.jobs[name]) == 0

    def states(self) -> dict[str, JobState]:
        """The state of each stage, by name, with at most two calls of the scheduler."""
        by_job = states(self._submissions())
        nothing = JobState("NOT SUBMITTED")
        return {stage.name: by_job.get(self.jobs.get(stage.name, ""), nothing) for stage in self.stages}

    def _submissions(self) -> list[Submission]:
        return [s for s in job_states.in_folder(job_states.folder_of(self.out)) if set(s.ids) & set(self.jobs.values())]


def submit_graph(
    stages: Sequence[JobStage],
    out: Path,
    profile: Profile,
    *,
    name: str = "study",
    finished: Callable[[str], bool] | None = None,
) -> Graph:
    """Submit all stages that are not `finished(name)` (default: by what an earlier graph of this folder left).

    Stages that wait or run already are left alone, and waited for. Raises ConfigError for a graph that is none,
    TrocarError when sbatch refuses; then what this call has submitted is cancelled.
    """
    if profile.cluster == "local":
        raise ConfigError("a graph of stages needs SLURM: dependencies are its business")
    check(stages)
    jobs: dict[str, str] = {}
    active: set[str] = set()
    if (job_states.folder_of(out) / GRAPH).exists():
        before = Graph.load(out)
        active = {stage for stage, state in before.states().items() if state.is_active}
        jobs = dict(before.jobs)
        finished = finished or before.is_finished
    graph = Graph(out, name, str(Path.cwd()), profile, tuple(stages), jobs)
    todo = [stage for stage in stages if stage.name not in active and not (finished and finished(stage.name))]
    return _submit(graph, todo, active)


def resubmit(out: Path, names: Collection[str] = ()) -> Graph:
    """Submit these stages anew (default: all that failed or were cancelled), and with them all that depend on them.

    Jobs of these stages that wait or run are cancelled first. Raises ConfigError for a name that is no stage.
    """
    graph = Graph.load(out)
    now = graph.states()
    for name in names:
        if name not in now:
            raise ConfigError(f"{name!r} is no stage of {out}{nearest(name, now)}")
    first = set(names) or {n for n, state in now.items() if not state.is_active and not graph.is_finished(n)}
    again = first | dependents(graph.stages, first)
    stop = sorted(graph.jobs[name] for name in again if now[name].is_active)
    if stop:
        cancel(stop)
    kept = {name for name, state in now.items() if state.is_active and name not in again}
    return _submit(graph, [stage for stage in graph.stages if stage.name in again], kept)


def scripts(stages: Sequence[JobStage], out: Path, profile: Profile, name: str = "study") -> str:
    """All scripts of a graph of which nothing is submitted, with array names in place of the job ids of parents."""
    check(stages)
    graph = Graph(out, name, str(Path.cwd()), profile, tuple(stages), {})
    texts = []
    for array in plan(stages):
        executor, limit = _executor(graph, array, {})
        texts.append(f"# array {array.key}: {', '.join(_some(array))}\n{executor.script(list(array.stages), limit)}")
    return "\n".join(texts)


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs or array elements, in few calls. A job that has ended already is no error."""
    for start in range(0, len(jobs), 500):
        run_command(["scancel", "--quiet", *jobs[start : start + 500]])


def _submit(graph: Graph, todo: Sequence[JobStage], active: Collection[str]) -> Graph:
    """Submit `todo`, which waits for those `active` that it depends on; all others it depends on are finished."""
    folder = job_states.folder_of(graph.out)
    again = {stage.name for stage in todo}
    done = replace(graph, jobs={name: job for name, job in graph.jobs.items() if name not in again})
    job_of: dict[str, str] = {}
    try:
        most = max_elements(site_facts()) if todo else 1
        for array in plan(todo, {name: graph.jobs[name] for name in active}, most):
            executor, limit = _executor(graph, array, job_of)
            submitted = time.time()
            calls = {
                index: Call(stage.words, str(folder), graph.cwd, submitted) for index, stage in array.stages.items()
            }
            job_of[array.key] = executor.submit_indexed(calls, limit)
            job_states.save(_record(graph, array, job_of[array.key], submitted))
            done.jobs.update({stage.name: f"{job_of[array.key]}_{index}" for index, stage in array.stages.items()})
            done.save()
    except TrocarError:
        if job_of:
            cancel(list(job_of.values()))
        raise
    done.save()
    return done


def _executor(graph: Graph, array: Array, jobs: dict[str, str]) -> tuple[Executor, int]:
    """The executor of an array, and how many of its elements may run at once."""
    changes = {**graph.profile.model_dump(mode="json"), **array.resources}
    profile = validate(Profile, changes, f"resources of stage {next(iter(array.stages.values())).name!r}")
    executor = slurm_executor(profile, job_states.folder_of(graph.out), graph.name, array.dependency(jobs))
    return executor, max(1, profile.array_limit // array.siblings)


def _record(graph: Graph, array: Array, job: str, submitted: float) -> Submission:
    elements = {str(index): stage.name for index, stage in array.stages.items()}
    profile: dict[str, Any] = {**graph.profile.model_dump(mode="json"), **array.resources}
    out, folder = str(graph.out.absolute()), str(job_states.folder_of(graph.out))
    return Submission(job, graph.name, (), out, folder, graph.cwd, profile, submitted, elements)


def _some(array: Array) -> list[str]:
    names = [stage.name for stage in array.stages.values()]
    return names if len(names) <= 4 else [*names[:3], f"... {len(names) - 3} more"]
