"""`trocar COMMAND ... --slurm PROFILE`: freeze the configuration, submit, and say where to look.

What a cluster's settings mean for runs, and `trocar doctor --slurm PROFILE`: the same checks on a compute node.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from trocar.core.config import fingerprint, tree_of
from trocar.core.files import write_atomic
from trocar.core.messages import Say
from trocar.core.resources import start_time
from trocar.errors import ConfigError
from trocar.privacy.redaction import redact_tree
from trocar.slurm import job_states
from trocar.slurm.executor import local_executor, slurm_executor
from trocar.slurm.job_states import Run, Submission, run_command, states, wait
from trocar.slurm.profile import Profile, load_profile
from trocar.slurm.remote_call import Call


def site_facts(run: Run = run_command) -> dict[str, str]:
    """`scontrol show config` as a mapping. Raises TrocarError where SLURM doesn't answer."""
    pairs = (line.partition("=") for line in run(["scontrol", "show", "config"]).splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def max_elements(facts: Mapping[str, str]) -> int:
    """How many elements an array may have: MaxArraySize is one more than the highest index."""
    return max(1, int(facts.get("MaxArraySize", "1001")))


def remarks(facts: Mapping[str, str]) -> list[str]:
    """What of this cluster a user of preemptable partitions should know, a line each."""
    kill = _seconds(facts.get("KillWait", "30"))
    lines = []
    if facts.get("JobRequeue") == "0":
        lines.append("JobRequeue=0: jobs come back only because Trocar asks for it with --requeue")
    signals = facts.get("SlurmctldParameters", "") + facts.get("PreemptParameters", "")
    if facts.get("PreemptMode", "OFF").startswith("REQUEUE") and "send_user_signal" not in signals:
        lines.append(
            f"preemption sends SIGTERM alone, and SIGKILL after the partition's GraceTime or {kill} s (KillWait): one "
            f"step and one checkpoint have to fit in"
        )
    if "none" in facts.get("AccountingStorageType", "none"):
        lines.append("no accounting: states of old jobs come from what the jobs left behind")
    expire = re.search(r"cred_expire=(\d+)", facts.get("AuthInfo", ""))
    lines.append(f"a requeued job waits at least {expire[1] if expire else 120} s (cred_expire)")
    lines.append(
        f"arrays have at most {max_elements(facts)} elements; finished jobs are known to squeue for "
        f"{_seconds(facts.get('MinJobAge', '300'))} s"
    )
    return lines


def _seconds(text: str) -> int:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0


def examine_node(name: str, overrides: Sequence[str], catalog: Path | None, timeout_s: float, say: Say) -> bool:
    """Submit `trocar doctor` as a job of one task, wait for it, and repeat what it found. Whether all is well.

    Raises ConfigError for a bad profile, TrocarError for a refused job or one that hasn't ended after `timeout_s`.
    """
    profile = load_profile(name, overrides).single()
    if profile.cluster == "slurm":
        for line in remarks(site_facts()):
            say(f"cluster             {line}")
    # A folder of its own for each try, where the job's logs can be read from here as well.
    out = Path(".trocar") / f"doctor-{time.strftime('%Y%m%d-%H%M%S')}"
    words = ["doctor", *(["--catalog", str(catalog.absolute())] if catalog is not None else [])]
    submission = submit(words, out, profile)
    say(f"job {submission.job} examines a node ...")
    state = wait(submission, timeout_s)
    log = submission.log(stream="out")
    # submitit's own lines stand between the checks'.
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    for line in lines:
        if not line.startswith("submitit "):
            say(line)
    say(f"job {submission.job} on {state.nodes or 'this machine'}: {state.state} {state.reason}".rstrip())
    return state.state == "COMPLETED"


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
    return job_states.folder_of(out) / f"{name}-{fingerprint(tree)}.yaml", text


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
    folder, cwd = job_states.folder_of(out), cwd or Path.cwd()
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
    job_states.save(submission)
    return submission


def script(words: Sequence[str], out: Path, profile: Profile) -> str:
    """What `submit` would hand to sbatch; on a local profile, what it would start."""
    folder = job_states.folder_of(out)
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
    names = {job: before.name for before in job_states.in_folder(folder) for job in before.ids}
    active = {job: state for job, state in states(job_states.in_folder(folder)).items() if state.is_active}
    if active:
        job, state = next(iter(active.items()))
        raise ConfigError(
            f"job {job} ({names[job]}) for {out} is still {state.state}; wait for it, or "
            f"`trocar jobs cancel {job.partition('_')[0]}`"
        )
