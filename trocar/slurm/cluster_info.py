"""What a cluster's settings mean for runs, and `trocar doctor --slurm PROFILE`: the same checks on a compute node."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from trocar.core.messages import Say
from trocar.slurm.job_states import Run, run_command, wait
from trocar.slurm.profile import load_profile
from trocar.slurm.submit import submit


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
