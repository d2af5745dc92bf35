"""`srun trocar pretrain`, as docs/slurm.md says, on a real SLURM."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_factory import write_config

from trocar.runs.run_folder import read_metrics, read_record
from trocar.ssl.ranks.distributed import SPECIAL

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("cluster")]

STEPS = 24
WHO = "from trocar.ssl.ranks.distributed import World; print('WORLD', World.from_environment())"


def ended(*command: str, timeout_s: float = 240) -> str:
    """What a command prints; it must succeed."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def worlds(*command: str) -> list[str]:
    """What processes took themselves for, sorted."""
    # a terminal puts bytes of its own before and behind a line
    return sorted(re.findall(r"WORLD (None|World\([^)]*\))", ended(*command)))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A shell script that says who it is."""
    script = tmp_path_factory.mktemp("who") / "who.sh"
    script.write_text(f'#!/bin/sh\n{sys.executable} -c "{WHO}"\n')
    script.chmod(0o755)
    return str(script)


def test_two_nodes_of_two_tasks_reach_the_loss_of_one_process(shards: Path, tmp_path: Path) -> None:
    one, together = tmp_path / "one", tmp_path / "together"
    pretrain = [sys.executable, "-m", "trocar", "pretrain"]
    ended(*pretrain, str(write_config(shards, one, STEPS)))
    ended("srun", "-N2", "-n4", "--ntasks-per-node=2", *pretrain, str(write_config(shards, together, STEPS)))
    rows, alone = read_metrics(together), read_metrics(one)
    assert [row["step"] for row in rows] == [row["step"] for row in alone] == list(range(STEPS))
    # the first steps differ by the order of summation alone; training lets that grow
    for a, b in zip(alone[:12], rows[:12], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-3)
    assert alone[-1]["loss"] == pytest.approx(rows[-1]["loss"], rel=2e-2)
    assert read_record(together)["attempt"] == 1
    assert not list((together / "slurm" / "meet").iterdir())  # nobody finds a port of the past


def test_each_task_of_a_step_is_a_rank_whatever_starts_python_there(python: str) -> None:
    for command in ([python], ["bash", "-c", f"{python}; true"]):
        found = worlds("srun", "-N2", "-n4", "--ntasks-per-node=2", *command)
        assert [line.partition(", step=")[0] for line in found] == [
            f"World(rank={rank}, size=4, local_rank={rank % 2}" for rank in range(4)
        ]
        assert len({line.partition(", step=")[2] for line in found}) == 1


def test_a_process_of_a_job_that_is_no_task_of_several_is_alone(python: str, tmp_path: Path) -> None:
    assert worlds("srun", "-n1", python) == ["None"]
    assert worlds("salloc", "-Q", "-n2", python) == ["None"]
    batch = tmp_path / "job.sh"
    batch.write_text(f"#!/bin/sh\n#SBATCH -n 2\n{python}\nsrun -n1 {python}\nsrun -n2 {python}\n")
    ended("sbatch", "--wait", "-o", str(tmp_path / "log"), str(batch))
    said = [line.partition(", local")[0] for line in (tmp_path / "log").read_text().splitlines() if "WORLD" in line]
    assert said[:2] == ["WORLD None", "WORLD None"]
    assert sorted(said[2:]) == ["WORLD World(rank=0, size=2", "WORLD World(rank=1, size=2"]


def in_terminal(command: str) -> list[str]:
    """The same from a terminal, which `srun --pty` wants."""
    return worlds("script", "-qec", command, "/dev/null")


def test_what_is_typed_into_an_interactive_step_is_alone_and_srun_there_is_not(python: str) -> None:
    # `true` behind it, or the shell would become the command
    assert in_terminal(f"srun -n2 --pty bash -c '{python}; true' </dev/null") == ["None"]
    # what salloc does on clusters with use_interactive_step
    nested = f"srun --overlap -n2 {python}"
    found = in_terminal(f"salloc -Q -n2 srun --pty --overlap -n1 bash -c '{python}; {nested}'")
    assert [line.partition(", local")[0] for line in found] == ["None", "World(rank=0, size=2", "World(rank=1, size=2"]


def test_slurms_own_steps_have_the_numbers_that_are_taken_for_them(tmp_path: Path) -> None:
    for option in ("--interactive",):
        said = ended("salloc", "-Q", "-n2", "srun", option, "bash", "-c", "echo step $SLURM_STEP_ID").split()
        assert int(said[said.index("step") + 1]) >= SPECIAL
