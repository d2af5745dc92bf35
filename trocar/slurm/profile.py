"""A profile: what to ask the cluster for. A site writes its own; nothing about a site is in the code.

A profile's `extra`: options of sbatch that have no field of their own, and none that contradict those which have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from trocar.core.config import Config, load, preset_names
from trocar.errors import ConfigError, nearest

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


LATEST_S = 60
"""SLURM looks for jobs near their limit now and then, and may signal them this much before the asked time."""


class Container(Config):
    """The image that the job's Python runs in. Site and home folders are mounted as the runner does by itself."""

    image: str = Field(description="the image, as the runner names it: a file or an address")
    runner: Literal["pyxis", "apptainer", "singularity"] = Field(default="apptainer", description="what starts it")
    mounts: tuple[str, ...] = Field(default=(), description="host folders, or HOST:INSIDE")
    python: str = Field(default="python3", description="the interpreter inside that has Trocar")
    gpu: bool = Field(default=True, description="hand the host's NVIDIA driver in (apptainer's --nv)")


class Profile(Config):
    """Resources of one job, or of each element of an array. Sizes are per node where the name doesn't say otherwise."""

    cluster: Literal["slurm", "local"] = Field(
        default="slurm", description="slurm, or local: jobs are processes on this machine"
    )
    partition: str | None = Field(default=None, description="sbatch's --partition; null: the cluster's default")
    account: str | None = Field(default=None, description="sbatch's --account; null: yours by default")
    qos: str | None = Field(default=None, description="sbatch's --qos; null: yours by default")
    nodes: int = Field(default=1, ge=1, description="machines of a job")
    gpus_per_node: int = Field(default=0, ge=0, description="GPUs of each machine; 0: none")
    tasks_per_node: int | None = Field(
        default=None, ge=1, description="processes of each machine; null: one per GPU, and 1 without GPUs"
    )
    cpus_per_task: int | None = Field(
        default=None, ge=1, description="CPU cores of each process; null: the cluster's default"
    )
    mem_gb: float | None = Field(
        default=None,
        gt=0,
        description="memory of each machine in GiB; null: the cluster's default; mem-per-cpu or mem-per-gpu in "
        "`extra` takes its place",
    )
    time_min: int = Field(default=60, ge=1, description="time limit in minutes, because YAML reads 4:00:00 as 14400")
    signal_before_s: int = Field(default=120, ge=1, description="seconds before the limit at which the run saves")
    constraint: str | None = Field(default=None, description="sbatch's --constraint, features that machines must have")
    exclude: str | None = Field(default=None, description="sbatch's --exclude, machines that are not to be used")
    array_limit: int = Field(default=16, ge=1, description="elements of an array that run at the same time")
    setup: tuple[str, ...] = Field(default=(), description="lines of shell before Python starts")
    environment: dict[str, str] = Field(default_factory=dict, description="environment variables of the job")
    container: Container | None = Field(default=None, description="the image that the job's Python runs in; null: none")
    python: str | None = Field(default=None, description="the job's interpreter; default: the one that submits")
    stage_to: str | None = Field(default=None, description="data.stage_to of pretraining, such as $SLURM_TMPDIR")
    extra: dict[str, str | int | bool] = Field(
        default_factory=dict, description="sbatch's options that have no field here"
    )

    @field_validator("extra")
    @classmethod
    def _extra(cls, given: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        return checked_extra(given)

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        if self.cluster == "local" and self.nodes > 1:
            raise ValueError("cluster: local has one node")
        if self.cpus_per_task and "cpus-per-gpu" in self.extra:
            raise ValueError("extra: cpus-per-gpu and cpus_per_task exclude each other in sbatch")
        if self.gpus_per_node and "gpu" in str(self.extra.get("gres", "")):
            raise ValueError("extra: gres asks for GPUs, and so does gpus_per_node; with gres take gpus_per_node: 0")
        least = self.signal_before_s + LATEST_S
        if self.cluster == "slurm" and self.time_min * 60 <= least:
            raise ValueError(
                f"time_min: {self.time_min} is over before a job has begun to work: SLURM may ask it to save {least} s "
                f"before the limit (signal_before_s + {LATEST_S}); ask for more time, or a shorter signal_before_s"
            )
        return self

    @property
    def ranks_per_node(self) -> int:
        """Tasks on each node: one per GPU unless `tasks_per_node` says otherwise."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def ranks(self) -> int:
        """Tasks of a job."""
        return self.nodes * self.ranks_per_node

    @property
    def asks_for_gpus(self) -> bool:
        """Whether jobs get GPUs, by `gpus_per_node` or by name in `extra`."""
        return bool(self.gpus_per_node) or "gpu" in str(self.extra.get("gres", ""))

    def single(self) -> Profile:
        """The same for a command of one process: one node, one task, one GPU if there are any."""
        return self.model_copy(update={"nodes": 1, "tasks_per_node": 1, "gpus_per_node": min(1, self.gpus_per_node)})


def load_profile(name: str, overrides: Sequence[str] = ()) -> Profile:
    """A YAML file, or the name of a profile in the box (`local`). Raises ConfigError."""
    boxed = [preset.removeprefix("slurm/") for preset in preset_names() if preset.startswith("slurm/")]
    try:
        return load(Profile, f"slurm/{name}" if name in boxed else name, overrides)
    except ConfigError as error:
        if "no configuration file" not in str(error):
            raise
        raise ConfigError(
            f"--slurm {name}: no such file, and no profile in the box{nearest(name, boxed)}; there are "
            f"{', '.join(boxed)}. `trocar presets copy slurm/{boxed[0]} my.yaml` is a start for your cluster's own"
        ) from None
