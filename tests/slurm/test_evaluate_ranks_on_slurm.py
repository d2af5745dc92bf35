"""On a real SLURM: an evaluation on two nodes leaves the tables of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from downstream_factory import make_folder
from finished_factory import files
from slurm_factory import only_job, until_state, write_profile

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def evaluate(folder: Path, *words: str, by: tuple[str, ...] = ()) -> None:
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*by, sys.executable, "-m", "trocar", "evaluate", "evaluate.yaml", *words]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_nodes_of_two_tasks_leave_the_tables_of_one_process_as_a_job_and_by_srun(tmp_path: Path) -> None:
    make_folder(tmp_path / "data")
    tree = {"backbone": ["random:test_resnet"], "data": "data", "protocol": ["knn", "linear"], "size": 32, "batch": 8}
    tree |= {"baselines": ["mean colour", "majority"], "bootstrap": 20, "figures": False, "device": "cpu"}
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(tree))
    evaluate(tmp_path, "out=one")
    evaluate(tmp_path, "out=step", by=("srun", "-N2", "-n4", "--ntasks-per-node=2"))
    assert files(tmp_path / "step") == files(tmp_path / "one")
    assert not list((tmp_path / "step/slurm/meet").iterdir())  # nobody finds a port of the past
    profile = write_profile(tmp_path, nodes=2, tasks_per_node=2, cpus_per_task=1, environment={"OMP_NUM_THREADS": "1"})
    evaluate(tmp_path, "out=job", "ranks=auto", "--slurm", profile)
    until_state(only_job(tmp_path / "job").job, "COMPLETED")
    assert files(tmp_path / "job") == files(tmp_path / "one")
