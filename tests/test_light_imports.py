"""What starts as many short or parallel processes loads no torch: that takes seconds and half a gigabyte in each."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "timm", "mlflow", "matplotlib")


@pytest.mark.parametrize(
    "module",
    [
        "trocar.data.ingest.pack",  # a worker of an ingest
        "trocar.data.ingest.run",
        "trocar.data.ingest.tars.scan_job",
        "trocar.study.stage_executors",  # a stage of a study
        "trocar.study.stage_execution",
        "trocar.slurm.submit",
    ],
)
def test_a_process_that_only_organises_or_decodes_loads_nothing_heavy(module):
    program = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
