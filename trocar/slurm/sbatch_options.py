"""A profile's `extra`: options of sbatch that have no field of their own, and none that contradict those which have."""

from __future__ import annotations

import re
from collections.abc import Mapping

Value = str | int | bool

_LOGS = "logs are where `trocar jobs` looks for them, in the output folder"
_GPUS = "gpus_per_node; for a kind of GPU take extra: {gres: gpu:KIND:N} with gpus_per_node: 0 and tasks_per_node"
OWN = {
    "nodes": "nodes",
    **dict.fromkeys(("ntasks", "ntasks-per-node", "ntasks-per-gpu"), "tasks_per_node"),
    **dict.fromkeys(("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket"), _GPUS),
    "cpus-per-task": "cpus_per_task",
    "mem": "mem_gb",
    **dict.fromkeys(("time", "time-min"), "time_min"),
    "signal": "signal_before_s",
    **{name: name for name in ("partition", "account", "qos", "constraint", "exclude")},
    **dict.fromkeys(("output", "error", "open-mode"), _LOGS),
    "array": "array_limit; Trocar counts the elements",
    "job-name": "jobs are called trocar-COMMAND",
    **dict.fromkeys(("dependency", "kill-on-invalid-dep"), "Trocar writes what a job waits for"),
    **dict.fromkeys(("requeue", "no-requeue"), "a run that goes on after its time limit needs the requeue"),
}
"""Option of sbatch that a script of Trocar's has already -> the profile's field for it, or who decides about it."""

SHORT = {
    "A": "account", "a": "array", "B": "extra-node-info", "b": "begin", "C": "constraint", "c": "cpus-per-task",
    "D": "chdir", "d": "dependency", "e": "error", "F": "nodefile", "G": "gpus", "H": "hold", "I": "immediate",
    "i": "input", "J": "job-name", "k": "no-kill", "L": "licenses", "M": "clusters", "m": "distribution", "N": "nodes",
    "n": "ntasks", "O": "overcommit", "o": "output", "p": "partition", "Q": "quiet", "q": "qos", "S": "core-spec",
    "s": "oversubscribe", "t": "time", "v": "verbose", "W": "wait", "w": "nodelist", "x": "exclude",
}  # fmt: skip
"""sbatch's one-letter options; a script knows the long ones only."""

MEMORY = ("mem-per-cpu", "mem-per-gpu")
"""They stand in the place of memory per node: sbatch takes one of the three."""


def checked_extra(given: Mapping[str, Value]) -> dict[str, Value]:
    """The options under sbatch's long names; those that are false are left out, and true is an option without a value.

    `cpus_per_gpu`, `--cpus-per-gpu` and `cpus-per-gpu` are one key. Raises ValueError for an option that the profile or
    Trocar writes (also as a one-letter or a cut-off name, which sbatch would complete), or for one that is given twice.
    """
    found: dict[str, Value] = {}
    for key, value in given.items():
        name = _long(key)
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) or "\n" in str(value):
            raise ValueError(f"{key}: {value!r} is no option of sbatch in one line")
        if (own := _own(name)) is not None:
            whose = "the profile has a field" if OWN[own].split(";")[0].isidentifier() else "Trocar decides"
            raise ValueError(f"{key} is sbatch's --{own}, for which {whose}: {OWN[own]}")
        if name in found:
            raise ValueError(f"{key} is given twice, as --{name}")
        found[name] = value
    if set(MEMORY) <= found.keys():
        raise ValueError(f"sbatch takes one of {' and '.join(MEMORY)}")
    return {name: value for name, value in found.items() if value is not False}


def _long(key: str) -> str:
    bare = key.strip().lstrip("-")
    return SHORT.get(bare, bare) if len(bare) == 1 else bare.replace("_", "-").lower()


def _own(name: str) -> str | None:
    """The option of Trocar's that sbatch takes a name for: getopt completes what only one option begins with."""
    if name in OWN:
        return name
    return next((own for own in OWN if len(name) > 1 and own.startswith(name)), None)
