"""A real SLURM cluster of virtual nodes on this machine, up for the tests that need it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_factory import make_catalog
from filelock import FileLock
from slurm_factory import ask

HERE = Path(__file__).parent
LOCK = Path("/var/tmp/trocar-slurm.lock")


def script(name: str, **settings: str) -> None:
    done = subprocess.run(["bash", str(HERE / name)], env={**os.environ, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, f"{name}: {done.stderr}"


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Four nodes of 16 CPUs and 8 GPUs, all fake, from a fresh state; one pytest at a time has it."""
    if os.geteuid() != 0:
        pytest.skip("a cluster of one's own needs root: its daemons, munge's key, /etc/slurm")
    if shutil.which("slurmctld") is None and shutil.which("apt-get") is None:
        pytest.skip("no SLURM here, and no apt-get to install it with")
    with FileLock(LOCK):
        script("cluster-down.sh", SLURM_DOWN_PURGE="1")
        script("cluster-up.sh")
        try:
            yield
        finally:
            script("cluster-down.sh", SLURM_DOWN_PURGE="1")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of four videos of two sources."""
    folder = tmp_path_factory.mktemp("shards")
    make_catalog(folder, 4, 30, sources=("a", "b"))
    return folder


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """No job of one test is in the way of the next."""
    yield
    if "cluster" in request.fixturenames and (left := ask("squeue", "-h", "-o", "%A").split()):
        ask("scancel", "--quiet", *left)
