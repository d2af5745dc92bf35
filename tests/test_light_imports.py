"""What starts as many short or parallel processes loads no torch: that takes seconds and half a gigabyte in each."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "timm", "mlflow", "matplotlib")
OF_LABELS = ("av", "matplotlib", "mlflow", "pandas", "scipy", "sklearn")
"""What only labelled data, videos and figures need: a second of every start, and 120 MiB of each loader worker."""


def loaded(module, heavy):
    program = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    "module",
    [
        "trocar.data.ingest.jobs",  # a worker of an ingest
        "trocar.data.ingest.run",
        "trocar.data.ingest.tars.scan_job",
        "trocar.study.stage_executors",  # a stage of a study
        "trocar.study.stage_execution",
        "trocar.slurm.submit",
    ],
)
def test_a_process_that_only_organises_or_decodes_loads_nothing_heavy(module):
    assert loaded(module, HEAVY) == "[]"


@pytest.mark.parametrize("module", ["trocar.jobs.pretrain", "trocar.data.loading.loader", "trocar.backbones.load"])
def test_a_pretraining_and_its_workers_load_nothing_of_labelled_data(module):
    assert loaded(module, OF_LABELS) == "[]"
