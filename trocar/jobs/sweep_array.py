"""A sweep on a cluster: an array runs the arms, each element one of them; then one job writes table and choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trocar.core.messages import Say
from trocar.errors import ConfigError
from trocar.jobs.sweep import PlannedArm, PlannedSweep, swept
from trocar.slurm import job_states
from trocar.slurm.arrays import JobStage
from trocar.slurm.graph import Graph, scripts, submit_graph
from trocar.slurm.job_states import Submission
from trocar.slurm.profile import Profile
from trocar.slurm.submit import freeze, refuse_second

NAME, TABLE = "sweep", "table"
ONE_TASK: Mapping[str, Any] = {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0}


@dataclass(frozen=True)
class SweepWords:
    """What the jobs of a sweep are called with.

    `run` are the words of one run, `pretrain FILE key=value ...`, whose `file` is to hold `text`; `swept` those that
    make a sweep of it, `--sweep KEY=A,B ...`; `changes` are the keys that the profile sets in every arm.
    """

    file: Path
    text: str
    run: tuple[str, ...]
    swept: tuple[str, ...]
    changes: Mapping[str, Any]

    def stages(self, arms: Sequence[PlannedArm]) -> list[JobStage]:
        """One stage per arm, and the table, which is written whatever became of them."""
        runs = [JobStage(arm.name, self._of(arm)) for arm in arms]
        table = (*self.run, *self.swept, "--table")
        return [*runs, JobStage(TABLE, table, tuple(arm.name for arm in arms), ONE_TASK, tolerant=True)]

    def _of(self, arm: PlannedArm) -> tuple[str, ...]:
        keys = {**arm.settings, "run.out": arm.config.run.out, **self.changes}
        return (*self.run, *(f"{key}={value}" for key, value in keys.items()))


def sweep_scripts(planned: PlannedSweep, words: SweepWords, profile: Profile) -> str:
    """The scripts that `submit_sweep` would hand to sbatch, "" where all arms have ended. Nothing is written."""
    _require_cluster(profile)
    left = _left(planned, words)
    return scripts(words.stages(left), planned.out, profile, NAME) if left else ""


def submit_sweep(planned: PlannedSweep, words: SweepWords, profile: Profile, say: Say) -> list[Submission]:
    """Submit the arms that have not ended, and the table; returns the jobs, none where all have.

    Raises ConfigError while jobs of an earlier submission wait or run, and for an arm of another configuration,
    TrocarError if sbatch refuses.
    """
    _require_cluster(profile)
    folder = job_states.folder_of(planned.out)
    refuse_second(folder, planned.out)
    left = [arm.name for arm in _left(planned, words)]
    if not left:
        return []
    freeze(words.file, words.text)
    todo = {*left, TABLE}
    graph = submit_graph(
        words.stages(planned.arms), planned.out, profile, name=NAME, finished=lambda name: name not in todo
    )
    say(f"{len(left)} of {len(planned.arms)} arms to run, then the table is written: {'; '.join(left)}")
    own = {graph.jobs[name] for name in todo}
    return [one for one in job_states.in_folder(folder) if own & set(one.ids)]


def _left(planned: PlannedSweep, words: SweepWords) -> list[PlannedArm]:
    """Arms that have neither a result nor, as jobs with these words, an error of their own for an answer."""
    before: dict[str, JobStage] = {}
    if job_states.in_folder(job_states.folder_of(planned.out)):
        before = {stage.name: stage for stage in Graph.load(planned.out).stages}
    left = []
    *runs, _ = words.stages(planned.arms)  # the last one is the table
    for arm, stage in zip(planned.arms, runs, strict=True):
        found = swept(arm, planned)
        if not found.ended or (found.failed and before.get(arm.name) != stage):
            left.append(arm)
    return left


def _require_cluster(profile: Profile) -> None:
    if profile.cluster == "local":
        raise ConfigError(
            "--sweep runs its arms on this machine by itself: leave out --slurm, or name the profile of a cluster"
        )
