"""submitit's executors for a profile: one job, or an array with the indices that its dependency needs."""

from __future__ import annotations

import shlex
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trocar.errors import ConfigError, TrocarError, extra
from trocar.slurm.profile import MEMORY, Profile
from trocar.slurm.remote_call import Call
from trocar.slurm.requeue import script_lines

with extra("slurm"):
    import submitit
    from submitit.core.utils import CommandFunction, DelayedSubmission, FailedJobError
    from submitit.slurm.slurm import SlurmExecutor, SlurmJob, _make_sbatch_string

LAST_WORDS_S = 60
"""How long the other tasks may go on when one has ended, before srun ends them: they would wait for it for ever."""

OFFLINE = 'export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"'
"""Compute nodes mostly reach no network: without this a job retries for a minute before it says which weights lack."""


class Executor(SlurmExecutor):
    """submitit's executor for SLURM, with arrays of any indices (its own count from 0), and scripts without SLURM."""

    @classmethod
    def affinity(cls) -> int:
        """Always able: a dry run prints the script on a machine without SLURM."""
        return 2

    def script(self, indices: Sequence[int] | None = None, limit: int = 1) -> str:
        """The exact script for sbatch, of a job or of an array of which `limit` elements run at once."""
        parameters = dict(self.parameters)
        if indices is not None:
            extra = {**parameters["additional_parameters"], "array": f"{ranges(indices)}%{limit}"}
            # submitit takes the names of an array's logs by it
            parameters |= {"map_count": len(indices), "additional_parameters": extra}
        return str(_make_sbatch_string(command=self._submitit_command_str, folder=self.folder, **parameters))

    def submit_call(self, call: Call) -> str:
        """Submit one job; returns its id. Raises TrocarError with sbatch's words."""
        with sbatch_errors():
            return str(self.submit(call).job_id)

    def submit_indexed(self, calls: Mapping[int, Call], limit: int) -> str:
        """Submit an array with an element for each index; returns its id. Raises TrocarError with sbatch's words."""
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        draft = uuid.uuid4().hex
        for index, call in calls.items():
            delayed = DelayedSubmission(call)
            delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
            delayed.dump(folder / f"{draft}-{index}.pkl")
        script = folder / f".submission_file_{draft}.sh"
        script.write_text(self.script(list(calls), limit), encoding="utf-8")
        try:
            with sbatch_errors():
                done = CommandFunction(["sbatch", str(script)], verbose=False)()
        except TrocarError:
            for index in calls:
                (folder / f"{draft}-{index}.pkl").unlink()
            script.unlink()
            raise
        job = str(self._get_job_id_from_submission_command(done))
        script.rename(folder / f"{job}_submission.sh")
        for index in calls:  # an element that has started already waits for its file
            SlurmJob(folder=folder, job_id=f"{job}_{index}").paths.move_temporary_file(
                folder / f"{draft}-{index}.pkl", "submitted_pickle"
            )
        return job


class sbatch_errors:  # noqa: N801 - used like a function
    """Turn submitit's report of a refused submission into sbatch's own words."""

    def __enter__(self) -> None:
        if shutil.which("sbatch") is None:
            raise ConfigError("no sbatch on the PATH: load the cluster's SLURM module, or use --slurm local")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FailedJobError):
            words = [line for line in str(error).splitlines() if "sbatch" in line or "rror" in line]
            raise TrocarError(f"sbatch refused the job: {' '.join(words[-2:]) or error}") from None


def slurm_executor(profile: Profile, folder: Path, name: str, dependency: str | None = None) -> Executor:
    """The executor for this profile. `folder` holds scripts, pickles and logs; the job is called trocar-NAME."""
    executor = Executor(folder.absolute(), python=_python(profile))
    executor.update_parameters(**parameters(profile, folder.absolute(), name, dependency))
    return executor


def local_executor(profile: Profile, folder: Path) -> submitit.LocalExecutor:
    """The same on this machine, without a cluster."""
    executor = submitit.LocalExecutor(folder.absolute(), python=_python(profile))
    executor.update_parameters(
        timeout_min=profile.time_min,
        tasks_per_node=profile.ranks_per_node,
        gpus_per_node=profile.gpus_per_node,
        signal_delay_s=profile.signal_before_s,
        setup=_setup(profile),
    )
    return executor


def parameters(profile: Profile, folder: Path, name: str, dependency: str | None) -> dict[str, Any]:
    """A profile in submitit's words, which are mostly sbatch's."""
    extra: dict[str, Any] = {"requeue": True}
    other_memory = profile.extra.keys() & set(MEMORY)
    if dependency is not None:
        # Without it a job whose parent failed would wait for ever.
        extra["kill-on-invalid-dep"] = "yes"
    return {
        **profile.model_dump(
            include={"partition", "account", "qos", "nodes", "cpus_per_task", "constraint", "exclude"}
        ),
        "job_name": f"trocar-{name}",
        "ntasks_per_node": profile.ranks_per_node,
        "gpus_per_node": profile.gpus_per_node or None,
        "mem": f"{round(profile.mem_gb * 1024)}M" if profile.mem_gb and not other_memory else None,
        "time": profile.time_min,
        "signal_delay_s": profile.signal_before_s,
        "dependency": dependency,
        "setup": [*_setup(profile), OFFLINE],
        "teardown": script_lines(folder) if profile.container else None,
        "srun_args": [f"--wait={LAST_WORDS_S}", *_cpus(profile), *_pyxis(profile)],
        "wckey": None,  # submitit's own default; sites that check keys refuse it
        "additional_parameters": {**extra, **profile.extra},
    }


def ranges(indices: Sequence[int]) -> str:
    """`0-3,7` for 0, 1, 2, 3 and 7: an array of thousands has to fit into one line of sbatch."""
    parts: list[list[int]] = []
    for index in sorted(indices):
        if parts and index == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], index]
        else:
            parts.append([index])
    return ",".join("-".join(map(str, part)) for part in parts)


def _setup(profile: Profile) -> list[str]:
    exports = [f"export {name}={shlex.quote(value)}" for name, value in profile.environment.items()]
    return [*exports, *profile.setup]


def _python(profile: Profile) -> str | None:
    """The command line that stands for Python in the script; None for the interpreter that submits."""
    container = profile.container
    if container is None:
        return shlex.quote(profile.python) if profile.python else None
    if container.runner == "pyxis":
        return shlex.quote(container.python)
    words = [container.runner, "exec", *(["--nv"] if container.gpu else [])]
    for mount in container.mounts:
        words += ["--bind", mount]
    return shlex.join([*words, container.image, container.python])


def _cpus(profile: Profile) -> list[str]:
    # Since 22.05 srun does not take this over from sbatch, and the task would be bound to one CPU.
    return [f"--cpus-per-task={profile.cpus_per_task}"] if profile.cpus_per_task else []


def _pyxis(profile: Profile) -> list[str]:
    container = profile.container
    if container is None or container.runner != "pyxis":
        return []
    mounts = [mount if ":" in mount else f"{mount}:{mount}" for mount in container.mounts]
    return [f"--container-image={container.image}", *([f"--container-mounts={','.join(mounts)}"] if mounts else [])]
