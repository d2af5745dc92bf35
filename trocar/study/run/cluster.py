"""Submit the stages of a study to SLURM: arrays with dependencies; each job runs `trocar study stage`."""

from __future__ import annotations

from typing import Any

from trocar.slurm.arrays import JobStage as Job
from trocar.slurm.graph import Graph, scripts, submit_graph
from trocar.slurm.profile import Profile
from trocar.study.config import StudyConfig
from trocar.study.plan.expand import StudyPlan
from trocar.study.run.stage_store import Store
from trocar.study.run.stages import Kind


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
