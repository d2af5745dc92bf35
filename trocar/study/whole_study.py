"""A whole study: make its data, plan, lock, run everything that is missing, bring mlflow up to it.

Making the data may take hours, so that only `study run` and `study plan --prepare` do it.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from trocar.core.messages import Say
from trocar.data.catalog.catalog import FOLDER
from trocar.errors import ConfigError, TrocarError
from trocar.slurm.profile import Profile
from trocar.study.config import StudyConfig
from trocar.study.mlflow_record import sync_study
from trocar.study.private_names import open_study_book
from trocar.study.stage_executors import LocalExecutor, SlurmExecutor, StageExecutor, run_stages
from trocar.study.stage_store import Store
from trocar.study.study_lock import StudyLock, drift, edits, read_lock, write_lock
from trocar.study.study_plan import StudyPlan, make_lock, make_plan

Answering = Callable[[Callable[[int], object]], AbstractContextManager[None]]
"""Within, signals that this process receives go to the function it was given: the command line installs handlers."""


def run_prepare(commands: list[str], say: Say) -> None:
    """The trocar commands that make the data; `say` is told each. Raises TrocarError for the first that fails."""
    for command in commands:
        say(f"$ trocar {command}")
        code = subprocess.run([sys.executable, "-m", "trocar", *shlex.split(command)], check=False).returncode
        if code in (130, -signal.SIGINT):
            raise KeyboardInterrupt
        if code:
            raise TrocarError(f"prepare: `trocar {command}` ended with exit code {code}; its message is above")


def require_prepared(study: StudyConfig) -> str:
    """What was not run, in a line, '' where the study has nothing to prepare.

    Raises ConfigError that lists the commands if the catalog or a task's data are not there.
    """
    if not study.prepare:
        return ""
    gone = [str(path) for path in _needed(study) if not path.exists()]
    if not gone:
        listed = "; ".join(f"trocar {command}" for command in study.prepare)
        return f"planned on the data that are there; `study run` and --prepare run first: {listed}"
    listed = "\n".join(f"  trocar {command}" for command in study.prepare)
    raise ConfigError(
        f"study {study.name}: the data are not there yet ({', '.join(gone)}). The study makes them with\n{listed}\n"
        "`trocar study plan --prepare` runs that now and then plans; `trocar study run` does it too"
    )


def _needed(study: StudyConfig) -> list[Path]:
    """The catalog, which is written last, and the folders of labels; each once."""
    return list(dict.fromkeys([study.catalog / FOLDER, *(task.data for task in study.tasks.values())]))


def lock_plan(plan: StudyPlan, store: Store, update: bool, say: Say) -> StudyLock:
    """The lock of the plan, written.

    Raises ConfigError, with what changed, for a plan on other data, versions or plugins than were locked, unless
    `update` accepts them.
    """
    new, old = make_lock(plan), read_lock(store, plan.study.name)
    if old is not None:
        changes, keys = drift(old, new), edits(old, new)
        listed = "\n".join(f"  {line}" for line in changes)
        if changes and not update:
            raise ConfigError(
                f"study {plan.study.name} was planned on other data, versions or plugins:\n{listed}\n"
                "`trocar study plan --update` accepts that; results of the old plan stay in the store"
            )
        if changes:
            say(f"accepted, compared with the last plan:\n{listed}")
        if keys:
            say(f"the study file has been edited since the last plan: {', '.join(keys)}")
    path = write_lock(store, new)
    say(f"locked in {path}")
    return new


def run_whole(
    study: StudyConfig,
    say: Say,
    *,
    jobs: int = 1,
    profile: Profile | None = None,
    uri: str | None = None,
    update: bool = False,
    called: str = "",
    answering: Answering = lambda stop: nullcontext(),
) -> Path:
    """Run everything that is missing; returns the folder of the report.

    Stages are processes of this machine, `jobs` at a time, or with a `profile` jobs of SLURM, which go on when this has
    returned. `called` is what the command line calls the study. Results go to mlflow at `uri` (None: as in `trocar
    track sync`; "none": nowhere). Raises ConfigError for a plan that cannot be or has changed, TrocarError with what
    failed when all that could run has run.
    """
    store = Store(study.store)
    run_prepare(study.prepare, say)
    plan = make_plan(study, profile)
    lock = lock_plan(plan, store, update, say)
    told = open_study_book(lock, store).saying(say)
    executor: StageExecutor
    if profile is not None:
        executor = SlurmExecutor(store, study.name, profile, study.threads, study.keep)
    else:
        executor = LocalExecutor(store, jobs, labels=plan.labels, threads=study.threads, keep=study.keep, say=told)
    try:
        with answering(executor.stop):
            ended = run_stages(executor, plan.stages)
    finally:
        if uri != "none":
            sync_study(lock, store, told, uri)
    if ended.failed:
        raise TrocarError(
            f"{len(ended.failed)} stages failed, {len(ended.blocked)} wait for them; the same command tries again. "
            f"`trocar study report {called or study.name}` writes a report of what is done"
        )
    return store.out(plan.report.name)
