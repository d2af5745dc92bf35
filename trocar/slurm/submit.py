"""`trocar COMMAND ... --slurm PROFILE`: freeze the configuration, submit, and say where to look."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from trocar.core.config import fingerprint, tree_of
from trocar.core.files import write_atomic
from trocar.core.messages import Say
from trocar.errors import ConfigError
from trocar.privacy.redaction import redact_tree
from trocar.runs.process_identity import start_time
from trocar.slurm import submissions
from trocar.slurm.executor import local_executor, slurm_executor
from trocar.slurm.job_states import states
from trocar.slurm.profile import Profile
from trocar.slurm.remote_call import Call
from trocar.slurm.submissions import Submission


def frozen(
    out: Path, name: str, path: str | Path | None, overrides: Sequence[str], changes: Mapping[str, Any] | None = None
) -> tuple[Path, str]:
    """The configuration as one file, so that the job runs what was submitted: where it belongs, and its text.

    `changes` are dotted keys that the profile sets. Raises ConfigError for credentials: the file would keep them.
    """
    tree = tree_of(path, [*overrides, *(f"{key}={value}" for key, value in (changes or {}).items())])
    if redact_tree(tree) != tree:
        raise ConfigError(
            "the configuration holds a password or token, which would be written to the jobs' folder; give the "
            "tracking URI by the variable TROCAR_TRACKING_URI instead"
        )
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    return submissions.folder_of(out) / f"{name}-{fingerprint(tree)}.yaml", text


def freeze(path: Path, text: str) -> None:
    """Write what `frozen` returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text)


def submit(
    words: Sequence[str], out: Path, profile: Profile, *, run: Path | None = None, cwd: Path | None = None
) -> Submission:
    """Submit one command that writes to `out`; `run` is the run folder to tell about requeues.

    Raises ConfigError while an earlier job for the same folder waits or runs, TrocarError if sbatch refuses.
    """
    folder, cwd = submissions.folder_of(out), cwd or Path.cwd()
    refuse_second(folder, out)
    call = Call(tuple(words), str(folder), str(cwd), time.time(), str(run.absolute()) if run else None)
    started = None
    if profile.cluster == "local":
        job = str(local_executor(profile, folder).submit(call).job_id)
        started = start_time(int(job))
    else:
        job = slurm_executor(profile, folder, words[0]).submit_call(call)
    submission = Submission(
        job,
        words[0],
        call.words,
        str(Path(out).absolute()),
        str(folder),
        str(cwd),
        profile.model_dump(mode="json"),
        call.submitted,
        started=started,
    )
    submissions.save(submission)
    return submission


def script(words: Sequence[str], out: Path, profile: Profile) -> str:
    """What `submit` would hand to sbatch; on a local profile, what it would start."""
    folder = submissions.folder_of(out)
    if profile.cluster == "local":
        executor = local_executor(profile, folder)
        return f"# {profile.ranks} process(es) on this machine, each:\n{executor._submitit_command_str}\n"
    return slurm_executor(profile, folder, words[0]).script()


def tell(submission: Submission, say: Say) -> None:
    """Job id, logs, how to follow."""
    where = (
        "on this machine" if submission.is_local else f"to {submission.profile['partition'] or 'the default partition'}"
    )
    count = f", {len(submission.elements)} elements" if submission.elements else ""
    say(f"submitted job {submission.job} ({submission.name}{count}) {where}")
    say(f"  logs    {submission.log()} and .out (other ranks and elements beside it)")
    say(f"  follow  tail -F {submission.log()}")
    say(f"  state   trocar jobs            stop  trocar jobs cancel {submission.job}")


def refuse_second(folder: Path, out: Path) -> None:
    """Raises ConfigError while a job that was submitted for this folder waits or runs."""
    names = {job: before.name for before in submissions.in_folder(folder) for job in before.ids}
    active = {job: state for job, state in states(submissions.in_folder(folder)).items() if state.is_active}
    if active:
        job, state = next(iter(active.items()))
        raise ConfigError(
            f"job {job} ({names[job]}) for {out} is still {state.state}; wait for it, or "
            f"`trocar jobs cancel {job.partition('_')[0]}`"
        )
