"""`trocar doctor --slurm PROFILE`: the same checks on a compute node, and what the cluster's settings mean for runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trocar.slurm.cluster_info import remarks, site_facts
from trocar.slurm.job_states import wait
from trocar.slurm.profile import load_profile
from trocar.slurm.submit import submit


def examine_node(
    name: str, overrides: Sequence[str], catalog: Path | None, timeout_s: float, say: Callable[[str], None]
) -> bool:
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
